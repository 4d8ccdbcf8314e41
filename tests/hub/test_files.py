"""Files are written whole or not at all."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from insloc_hub.errors import CannotWrite
from insloc_hub.files import check_writable, digest, home, sha256_file, write_json, write_text, write_whole


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "größe.txt", "ä\n")
    assert (tmp_path / "a" / "b" / "größe.txt").read_bytes() == "ä\n".encode()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["größe.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_half_way_leaves_the_old_file_and_no_rest(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def half(part: Path) -> None:
        part.write_text("ne")
        raise error("no more")

    with pytest.raises(CannotWrite if error is OSError else error):
        write_whole(path, half)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_new_file_may_be_read_by_all_that_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_json_is_for_people_and_refuses_what_no_reader_takes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ö": [1, 2.5], "b": None})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ö": [1, 2.5], "b": None} and "ö" in text and text.endswith("}\n")
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_place_is_proved_writable_without_being_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CannotWrite, match="file is a file"):
            check_writable(place)
        with pytest.raises(CannotWrite):
            write_text(place / "x", "y")


def test_digests_are_sha256_and_do_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1}) == hashlib.sha256(b'{"a":1,"b":[2,3]}').hexdigest()
    assert digest({"a": 1}) != digest({"a": 2})


def test_the_home_is_the_named_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("INSLOC_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".cache" / "insloc"
