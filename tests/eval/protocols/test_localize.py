"""The protocols that localize: a changed number is a new version."""

from insloc_eval.protocols.localize import RECORDS

FROZEN = {
    "patches/composite-large@1": "67464d33c241a31c",
    "patches/composite@1": "36ca12dee15faf26",
    "patches/isolated@1": "0fc6e7a52da1aeeb",
    "patches/linear-c4@1": "62b4992a2b90cf44",
    "patches/window@1": "1d08edac1dfa80e7",
    "patches/linear@1": "ae561ee330989c6e",
    "patches/relocate@1": "3568f873c3d094f4",
}


def test_a_protocol_keeps_its_numbers_as_long_as_it_keeps_its_version() -> None:
    assert {protocol.title: protocol.hash()[:16] for protocol in RECORDS} == FROZEN
