"""The protocols that read classes: a changed number is a new version."""

from insloc_eval.protocols.linear import RECORDS

FROZEN = {
    "linear/logistic@1": "50fdbcb761e2072a",
    "linear/sweep@1": "d86b8335fbd1717f",
    "linear/moco@1": "af9fbbcf0238298a",
    "knn/dino@1": "af052d02ca396943",
}


def test_a_protocol_keeps_its_numbers_as_long_as_it_keeps_its_version() -> None:
    assert {protocol.title: protocol.hash()[:16] for protocol in RECORDS} == FROZEN
