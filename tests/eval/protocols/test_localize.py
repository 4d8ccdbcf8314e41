"""The protocols that localize: a changed number is a new version."""

from insloc_eval.protocols.localize import RECORDS

FROZEN = {
    "patches/linear@1": "ae561ee330989c6e",
    "patches/relocate@1": "3568f873c3d094f4",
}


def test_a_protocol_keeps_its_numbers_as_long_as_it_keeps_its_version() -> None:
    assert {protocol.title: protocol.hash()[:16] for protocol in RECORDS} == FROZEN
