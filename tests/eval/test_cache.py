"""Cached features: read again bit for bit; damage is noticed, said and mended."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from insloc_eval.cache import cached, clear, entries
from insloc_eval.features import FeatureSpec, FeatureTable, pooled_spec
from insloc_hub.data.folder import ImageSet, list_images
from insloc_hub.models.extractor import Extractor

Fill = Callable[..., Path]


class Setup:
    """Three images and a cache folder."""

    def __init__(self, network: Extractor, data: Path, folder: Path) -> None:
        self.network, self.data, self.folder = network, data, folder
        self.spec: FeatureSpec = pooled_spec(network, "whole", 32)

    def features(self) -> FeatureTable:
        images: ImageSet = list_images(self.data)
        return cached(self.network, images, self.spec, self.folder, "test")

    def file(self, name: str) -> Path:
        (found,) = self.folder.glob(f"*/{name}")
        return found


@pytest.fixture
def setup(network: Extractor, fill: Fill, tmp_path: Path) -> Setup:
    return Setup(network, fill(tmp_path / "data", {".": 3}), tmp_path / "cache")


def stamps(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_ino) for path in folder.rglob("*") if path.is_file())


def test_the_second_time_features_are_read_not_computed(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    first, before = setup.features(), stamps(setup.folder)
    second = setup.features()
    assert torch.equal(first.values, second.values) and first.keys == second.keys
    assert stamps(setup.folder) == before and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.file("features.safetensors").write_bytes(s.file("features.safetensors").read_bytes()[:-9]),
        lambda s: s.file("features.safetensors").write_bytes(s.file("features.safetensors").read_bytes()[:-1] + b"x"),
        lambda s: s.file("keys.json").write_text('{"keys": ["000'),
        lambda s: s.file("keys.json").write_text("{}"),
        lambda s: s.file("keys.json").write_text("[]"),
        lambda s: s.file("features.safetensors").unlink(),
    ],
    ids=["cut", "changed byte", "half a json", "no keys", "no object", "no features"],
)
def test_damaged_features_are_computed_again_with_a_notice(
    setup: Setup, capsys: pytest.CaptureFixture[str], damage: Callable[[Setup], object]
) -> None:
    first = setup.features()
    damage(setup)
    assert torch.equal(setup.features().values, first.values)
    assert "computing them again" in capsys.readouterr().err
    assert torch.equal(setup.features().values, first.values)
    assert capsys.readouterr().err == ""  # mended


def test_a_mended_image_is_noticed_even_if_its_size_did_not_change(setup: Setup) -> None:
    picture = setup.data / "001.png"
    good = picture.read_bytes()
    picture.write_bytes(bytes(len(good)))
    assert list(setup.features().skipped) == ["001.png"]
    picture.write_bytes(good)
    assert setup.features().skipped == {}


def test_another_image_is_another_entry(setup: Setup, fill: Fill) -> None:
    setup.features()
    fill(setup.data, {"more": 1})
    assert len(setup.features().keys) == 4
    assert len(list(setup.folder.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_a_notice_only(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.folder.write_text("a file where the folder should be")
    assert len(setup.features().keys) == 3
    assert "not cached" in capsys.readouterr().err


def test_what_is_kept_is_told_and_cleared_and_nothing_else_is_touched(
    network: Extractor, fill: Callable[..., Path], tmp_path: Path
) -> None:
    images = list_images(fill(tmp_path / "data", {".": 3}))
    folder = tmp_path / "cache"
    cached(network, images, pooled_spec(network, "whole", 32), folder, "test")
    half = folder / ("0" * 32)
    half.mkdir()
    (half / "features.safetensors").write_bytes(b"x" * 10)
    (folder / "mine.txt").write_text("not a feature")
    (folder / "photos").mkdir()
    whole, broken = entries(folder)
    assert whole.what == "whole 32 px, pooled, model, fp32" and whole.images == 3 and whole.size_bytes > 3 * 512 * 4
    assert (broken.what, broken.images, broken.size_bytes) == ("half-written", 0, 10)
    assert clear(folder) == whole.size_bytes + 10
    assert entries(folder) == [] and sorted(path.name for path in folder.iterdir()) == ["mine.txt", "photos"]
    assert entries(tmp_path / "nowhere") == [] and clear(tmp_path / "nowhere") == 0
