"""Composite localization: closed forms, the slow loop, the notes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from insloc_eval.job import Job
from insloc_eval.protocols import PATCHES_COMPOSITE, PATCHES_COMPOSITE_LARGE
from insloc_eval.sets import load_split
from insloc_eval.tasks import composite
from insloc_eval.tasks.candidates import overlaps
from insloc_eval.tasks.composite import Searcher, make_picture
from insloc_hub.data.transform import normalise
from insloc_hub.errors import BadImage
from insloc_hub.models.extractor import Extractor

Fill = Callable[..., Path]
MakeJob = Callable[..., Job]
MadeUp = Callable[..., Extractor]
SMALL = replace(PATCHES_COMPOSITE, centres=8, scales=3, per_octave=1)  # 960 candidates


def colours(images: Tensor, stride: int) -> Tensor:
    """Mean colour of each map cell, without its mean over the channels."""
    size = (-(-images.shape[2] // stride), -(-images.shape[3] // stride))
    means = torch.nn.functional.adaptive_avg_pool2d(images, size)
    return means - means.mean(dim=1, keepdim=True)


def constant(images: Tensor, stride: int) -> Tensor:
    return torch.full((len(images), 3, -(-images.shape[2] // stride), -(-images.shape[3] // stride)), 0.7)


@pytest.fixture
def one_red_image(tmp_path: Path) -> Path:
    """A red picture among green ones: a red crop on green is found by colour alone."""
    from PIL import Image

    folder = tmp_path / "data"
    for half in ("train", "val"):
        (folder / half).mkdir(parents=True)
        for number in range(12):
            colour = (250, 0, 0) if number == 5 else (0, 250, 0)
            Image.new("RGB", (90, 80), colour).save(folder / half / f"{number:02d}.png")
    return folder


def test_a_patch_that_differs_from_its_background_is_found_where_it_is(one_red_image: Path, made_up: MadeUp) -> None:
    samples = load_split(one_red_image, labels=False).test.samples
    searcher = Searcher(made_up(3, colours), PATCHES_COMPOSITE)
    pictures = [make_picture(PATCHES_COMPOSITE, seed, samples[5], samples) for seed in range(6)]
    found = searcher.search([p for p in pictures if not isinstance(p, BadImage) and p.placement.layout.background[0] != 5])
    assert len(found) >= 4
    assert min(one.ious["_same"] for one in found) > 0.0  # somewhere inside the red
    for one in found:
        box = searcher.boxes[int(overlaps(one.box, searcher.boxes).argmax())]
        assert one.best == pytest.approx(float(overlaps(one.box, box[None])[0]))


def test_a_constant_map_gives_the_first_candidate(fill: Fill, make_job: MakeJob, tmp_path: Path, made_up: MadeUp) -> None:
    job = make_job(SMALL, fill(tmp_path / "data", {"x": 20}), made_up(3, constant))
    judged = composite.run(job)
    boxes = composite.candidate_grid(SMALL).boxes()
    samples = job.split.test.samples
    for key, miou in zip(judged.outcomes["keys"], judged.outcomes["miou"], strict=True):
        (sample,) = (s for s in samples if s.key == key)
        picture = make_picture(SMALL, 0, sample, samples)
        assert not isinstance(picture, BadImage)
        assert miou == overlaps(picture.placement.box, boxes[:1])[0]


def test_the_search_is_that_of_a_slow_loop_of_roi_aligns(network: Extractor, fill: Fill, tmp_path: Path) -> None:
    samples = load_split(fill(tmp_path, {"x": 20}), labels=False).test.samples
    searcher = Searcher(network, SMALL)
    picture = make_picture(SMALL, 3, samples[1], samples)
    assert not isinstance(picture, BadImage)
    (found,) = searcher.search([picture])
    boxes = torch.from_numpy(searcher.boxes).float()
    maps = network.forward(normalise(picture.composite, network.facts)[None], [16], pooled=False).maps[16]
    regions = torch.cat([roi_align(maps, [box[None]], 7, 1 / 16, 0, True).mean((2, 3)) for box in boxes])
    for name, pixels in picture.queries.items():
        alone = network.forward(normalise(pixels, network.facts)[None], [16], pooled=False).maps[16]
        whole = torch.tensor([[0.0, 0.0, pixels.shape[2], pixels.shape[1]]])
        query = roi_align(alone, [whole], 7, 1 / 16, 0, True).mean((2, 3))
        scores = torch.cosine_similarity(regions, query, dim=1)
        ious = overlaps(picture.placement.box, searcher.boxes)
        assert found.ious[name] in ious[(scores >= scores.max() - 5e-6).numpy()]


def test_queries_are_the_pasted_pixels_another_view_and_that_view_recoloured(fill: Fill, tmp_path: Path) -> None:
    samples = load_split(fill(tmp_path, {"x": 20}), labels=False).test.samples
    picture = make_picture(PATCHES_COMPOSITE, 0, samples[0], samples)
    assert not isinstance(picture, BadImage)
    x1, y1, x2, y2 = (int(v) for v in picture.placement.box)
    assert torch.equal(picture.queries["_same"], picture.composite[:, y1:y2, x1:x2])
    assert picture.queries["_view"].shape == picture.queries[""].shape == (3, *picture.placement.view_wh[::-1])
    assert not torch.equal(picture.queries["_view"], picture.queries[""])


def test_the_note_says_pretext_and_the_large_range_warns_of_the_constant_box(
    fill: Fill, make_job: MakeJob, tmp_path: Path, made_up: MadeUp
) -> None:
    data = fill(tmp_path / "data", {"x": 30})
    small = composite.run(make_job(SMALL, data, made_up(3, colours))).result
    assert any("never evidence alone" in note for note in small.notes)
    assert not any("WARNING" in note for note in small.notes)
    large = composite.run(make_job(replace(PATCHES_COMPOSITE_LARGE, centres=4, scales=2), data, made_up(3, colours))).result
    assert any(note.startswith("WARNING: a constant box reaches") for note in large.notes)
    (square,) = (row for name, row in large.rows.items() if name.startswith("best constant square"))
    assert square["acc50"] > 0.3
    assert not PATCHES_COMPOSITE_LARGE.by_family


def test_a_background_that_cannot_be_read_is_named_without_its_folder(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {".": 40})
    samples = load_split(tmp_path, labels=False).test.samples
    places = [make_picture(SMALL, 0, s, samples) for s in samples]
    use = {
        s.key: samples[int(p.placement.layout.background[0])]
        for s, p in zip(samples, places, strict=True)
        if not isinstance(p, BadImage)
    }
    victim = next(other for key, other in use.items() if key != other.key)
    victim.path.write_bytes(b"no picture")
    key = next(key for key, other in use.items() if other == victim and key != victim.key)
    (sample,) = (s for s in samples if s.key == key)
    error = make_picture(SMALL, 0, sample, samples)
    assert isinstance(error, BadImage) and f"its background {victim.key}" in str(error)
    assert str(tmp_path) not in str(error)


def test_an_image_is_judged_alike_alone_and_among_others(network: Extractor, fill: Fill, tmp_path: Path) -> None:
    samples = load_split(fill(tmp_path, {"x": 20}), labels=False).test.samples
    searcher = Searcher(network, SMALL)
    pictures = [p for s in samples[:3] if not isinstance(p := make_picture(SMALL, 0, s, samples), BadImage)]
    together = searcher.search(pictures)
    assert [one.ious for one in together] == [searcher.search([one])[0].ious for one in pictures]
    assert searcher.search([]) == []
    assert np.isfinite([one.best for one in together]).all()
