"""How images are kept, where backgrounds come from, and that a run remembers it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from insloc_hub.data.cache import load_pixels
from insloc_hub.data.folder import list_images
from insloc_hub.data.loader import batch_indices, recent_indices
from insloc_hub.errors import BadRun
from insloc_hub.pretrain.batches import backgrounds, make_batch
from insloc_hub.pretrain.images import list_for, read_for
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.resume import read_checkpoint
from insloc_hub.pretrain.run import pretrain
from insloc_hub.recipe import Recipe

Tiny = Callable[..., Recipe]
CPU = torch.device("cpu")


def options(data: Path, **changes: object) -> RunOptions:
    return RunOptions(data=data, run=data / "run", **changes)


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> int:
    """A pool shorter than the 24 photos; the real one holds at least 4,096."""
    monkeypatch.setattr("insloc_hub.pretrain.images.pool_size", lambda batch: 16)
    return 16


def test_kept_images_give_backgrounds_from_the_whole_set(photos: Path, tiny: Tiny) -> None:
    pixels = read_for(list_images(photos), tiny(), options(photos), CPU)
    assert len(pixels.kept) == 24 and pixels.pool is None and backgrounds(pixels, tiny(), 5) == 24


@pytest.mark.parametrize("changes", [{"cache": "off"}, {"cache_gib": 1e-5}])
def test_a_stream_takes_backgrounds_from_the_images_seen_last(
    photos: Path, tiny: Tiny, small_pool: int, changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = read_for(list_images(photos), tiny(), options(photos, **changes), CPU)
    assert pixels.pool == small_pool and len(pixels.kept) < 24
    assert "backgrounds come from the last 16 images instead of all; --cache ram" in capsys.readouterr().err
    seen = backgrounds(pixels, tiny(), 4)
    assert isinstance(seen, np.ndarray)
    assert seen.tolist() == [*batch_indices(24, 8, 0, 3)[1], *batch_indices(24, 8, 0, 4)[1]]
    kept = read_for(list_images(photos), tiny(), options(photos, cache="ram", cache_gib=0.0), CPU)
    assert len(kept.kept) == 24 and kept.pool is None


def test_a_set_no_longer_than_the_pool_is_drawn_from_whole(photos: Path, tiny: Tiny) -> None:
    assert read_for(list_images(photos), tiny(), options(photos, cache="off"), CPU).pool is None


def test_a_streamed_batch_is_a_function_of_its_step(photos: Path, tiny: Tiny, small_pool: int) -> None:
    images = list_images(photos)
    one, other = (read_for(images, tiny(), options(photos, cache="off"), CPU) for _ in range(2))
    make_batch(one, tiny(), 0, CPU)
    a, b = make_batch(one, tiny(), 4, CPU), make_batch(other, tiny(), 4, CPU)
    assert torch.equal(a.query, b.query) and torch.equal(a.key, b.key)
    whole = make_batch(load_pixels(images, 128, 2**30), tiny(), 4, CPU)
    assert torch.equal(a.query_boxes, whole.query_boxes) and not torch.equal(a.query, whole.query)  # other backgrounds only


def test_what_was_seen_reaches_back_over_epochs_and_never_before_the_start() -> None:
    assert recent_indices(24, 8, 0, 0, 16).tolist() == batch_indices(24, 8, 0, 0)[1]
    assert recent_indices(24, 8, 0, 3, 16).tolist() == [*batch_indices(24, 8, 0, 2)[1], *batch_indices(24, 8, 0, 3)[1]]
    assert recent_indices(24, 8, 0, 3, 3).tolist() == batch_indices(24, 8, 0, 3)[1]
    assert recent_indices(24, 8, 0, 0, 8, slice(4, 8)).tolist() == batch_indices(24, 8, 0, 0)[1][4:]


def test_a_run_writes_its_pool_and_resumes_with_it_bit_for_bit(
    photos: Path, tiny: Tiny, small_pool: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str, stop: int, *, resume: bool = False, cache: str = "off") -> None:
        ends = RunOptions(data=photos, run=tmp_path / out, steps=5, cache=cache, resume=resume)
        pretrain(None if resume else tiny(), ends, lambda step: step >= stop)

    run("whole", 5)
    run("broken", 3)
    assert json.loads((tmp_path / "broken" / "run.json").read_text())["data"]["background_pool"] == small_pool
    run("broken", 5, resume=True, cache="ram")  # more memory now: the run keeps its pool
    one, other = (read_checkpoint(tmp_path / name)["encoder"] for name in ("whole", "broken"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_of_a_folder_with_two_halves_the_first_is_trained_on(world: Path, tiny: Tiny) -> None:
    both, first = list_for(world, tiny()), list_for(world / "train", tiny())
    assert [sample.key for sample in both.samples] == [sample.key for sample in first.samples]


def test_an_unknown_cache_is_refused(photos: Path) -> None:
    with pytest.raises(BadRun, match="cache 'disk' is unknown; there are auto, ram, off"):
        options(photos, cache="disk")
