"""What random networks reach on real photographs: the measured tables of paper.md D.1, within 5 points."""

import tarfile
from pathlib import Path

import pytest

from insloc_eval.run import evaluate

TRAIN, TEST = 600, 300  # the table's 900 images of tiny-imagenet's validation shard, in the order of the tar
ZERO, ORDINARY = "random:resnet18", "random:resnet18 (ordinary norms)"
# Task -> top-1 with zero-initialised last norms, with ordinary ones (docs/notes/paper.md D.1, first table).
TABLE = {"patches/linear@1": (0.43, 1.00), "patches/isolated@1": (0.15, 0.17), "patches/window@1": (0.14, 0.16)}


@pytest.fixture(scope="module")
def photographs(insloc_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(insloc_data / "tiny-imagenet" / "val-000000.tar") as tar:
        members = [member for member in tar if member.name.endswith(".jpg")][: TRAIN + TEST]
        for number, member in enumerate(members):
            half = folder / ("train" if number < TRAIN else "val")
            half.mkdir(exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            (half / Path(member.name).name).write_bytes(content.read())
    return folder


@pytest.mark.slow
def test_the_random_rows_of_the_paper_page_are_reproduced(photographs: Path, tmp_path: Path) -> None:
    tasks = [title.removesuffix("@1") for title in TABLE] + ["patches/relocate"]
    results = evaluate([ZERO], tasks, photographs, tmp_path / "results", cache=tmp_path / "cache", device="cpu")
    found = {(r.protocol, r.model.spec): r.metrics for r in results}
    for title, (zero, ordinary) in TABLE.items():
        assert found[title, ZERO]["top1"].value == pytest.approx(zero, abs=0.05)
        assert found[title, ORDINARY]["top1"].value == pytest.approx(ordinary, abs=0.05)
    for spec in (ZERO, ORDINARY):
        assert found["patches/relocate@1", spec]["acc50"].value < 0.06
