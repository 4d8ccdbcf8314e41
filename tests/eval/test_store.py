"""Records on disk: whole or named as damaged, never in between."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from insloc_eval.store import Judged, browse, load, pick, record_path, save
from insloc_hub.errors import BadData

MakeRecord = Callable[..., Judged]


def test_a_record_comes_back_as_it_was(make_record: MakeRecord, tmp_path: Path) -> None:
    judged = make_record("a model", [0, 1, 1])
    path = save(tmp_path, judged)
    assert path == record_path(tmp_path, "linear", judged.result.id) and path.with_suffix(".npz").exists()
    back = load(path)
    assert back.result == judged.result
    assert back.outcomes["top1"].tolist() == [0, 1, 1] and back.outcomes["keys"].tolist() == ["0.png", "1.png", "2.png"]


def change(path: Path, edit: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda p: p.write_text(p.read_text()[:90]), "is no JSON"),
        (lambda p: p.write_text("[1]"), "is no result record"),
        (lambda p: p.with_suffix(".npz").unlink(), "outcomes of this record are missing"),
        (lambda p: p.with_suffix(".npz").write_bytes(p.with_suffix(".npz").read_bytes()[:100]), "can't be read"),
        (lambda p: change(p, lambda v: v["metrics"]["top1"].update(value=0.9)), "edited or half-written"),
        (lambda p: change(p, lambda v: v["model"].update(sha256="other")), "edited by hand"),
        (lambda p: change(p, lambda v: v.update(schema=99)), "newer insloc_hub"),
        (lambda p: change(p, lambda v: v["metrics"]["top1"].update(n=7)), "no 7 values"),
    ],
    ids=["half a json", "no object", "no npz", "half an npz", "edited number", "edited model", "newer", "edited n"],
)
def test_a_damaged_record_is_named_and_never_reported(
    make_record: MakeRecord, tmp_path: Path, damage: Callable[[Path], object], problem: str
) -> None:
    path = save(tmp_path, make_record("bad", [0, 1, 1]))
    save(tmp_path, make_record("good", [0, 1, 0]))
    damage(path)
    with pytest.raises(BadData, match=problem):
        load(path)
    shelf = browse(tmp_path)
    assert [result.model.spec for result in shelf.results] == ["good"]
    assert len(shelf.problems) == 1 and path.stem in shelf.problems[0]


def test_a_record_under_another_name_is_refused(make_record: MakeRecord, tmp_path: Path) -> None:
    path = save(tmp_path, make_record("a", [0, 1]))
    other = path.rename(path.with_name("0" * 16 + ".json"))
    path.with_suffix(".npz").rename(other.with_suffix(".npz"))
    with pytest.raises(BadData, match="renamed or copied"):
        load(other)


def test_models_and_starts_of_ids_find_records(make_record: MakeRecord, tmp_path: Path) -> None:
    records = [make_record("runs/a", [0, 1]), make_record("runs/a", [0, 1], eval_seed=1), make_record("b", [1, 1])]
    for record in records:
        save(tmp_path, record)
    assert {r.id for r in pick(tmp_path, "runs/a")} == {r.result.id for r in records[:2]}
    assert [r.id for r in pick(tmp_path, records[2].result.id[:8])] == [records[2].result.id]
    with pytest.raises(BadData, match="Models there: b, runs/a"):
        pick(tmp_path, "c")


def test_an_empty_folder_holds_nothing_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    assert browse(tmp_path).results == []
    with pytest.raises(BadData, match="no such folder"):
        browse(tmp_path / "nowhere")


def test_two_processes_may_write_one_record(make_record: MakeRecord, tmp_path: Path) -> None:
    path = save(tmp_path, make_record("a", list(np.tile([0.0, 1.0], 500))))
    script = (
        "import sys; from pathlib import Path; from insloc_eval.store import load, save\n"
        "judged = load(Path(sys.argv[1]))\n"
        "for _ in range(40):\n    save(Path(sys.argv[2]), judged); load(Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, path.with_suffix(".npz").name])


def test_a_record_of_schema_1_is_read_and_keeps_its_id(make_record: Callable[..., Judged], tmp_path: Path) -> None:
    path = save(tmp_path, make_record("a", [0, 1, 1, 1]))
    values = json.loads(path.read_text())
    old = {key: value for key, value in values.items() if key not in ("not_applicable", "maps")}
    path.write_text(json.dumps({**old, "schema": 1}))
    assert load(path).result == make_record("a", [0, 1, 1, 1]).result
