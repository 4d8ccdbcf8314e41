"""The protocols on objects: a changed number is a new version."""

from insloc_eval.protocols.regions import RECORDS

FROZEN = {
    "boxes/linear@1": "0cbc60a3046eafab",
    "regions/mosaic@1": "56ae87da6aeb9adf",
    "regions/mosaic-a@1": "00fd48737c5c2509",
    "regions/mosaic-b@1": "64796653e2ef8bdd",
}


def test_a_protocol_keeps_its_numbers_as_long_as_it_keeps_its_version() -> None:
    assert {protocol.title: protocol.hash()[:16] for protocol in RECORDS} == FROZEN
