"""Relocate: closed forms of the search, the tie rule, the pixels of a view, networks that take no small input."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from insloc_eval.job import Job
from insloc_eval.protocols import PATCHES_RELOCATE as PROTOCOL
from insloc_eval.tasks import relocate
from insloc_eval.tasks.candidates import overlaps
from insloc_eval.tasks.relocate import Searcher, cut, view_pixels
from insloc_eval.tasks.relocate_draws import candidate_boxes, draw_patch
from insloc_hub.boxes.means import region_means
from insloc_hub.data.transform import normalise
from insloc_hub.models.extractor import Extractor, load

SIZE = 128
MadeUp = Callable[..., Extractor]
Fill = Callable[..., Path]


def coordinates() -> Tensor:
    """A picture whose red is x and whose green is y."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).to(torch.uint8)


def one_hot_positions(images: Tensor, stride: int) -> Tensor:
    """A code of its own for every map cell; a part of `coordinates()` gets the mean code of where it comes from."""
    cells = SIZE // stride
    codes = torch.eye(cells * cells).reshape(cells * cells, cells, cells)[None]
    if images.shape[-1] == SIZE:
        return codes.expand(len(images), -1, -1, -1)
    x, y = (images[0, :2] * 255).round()
    box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return region_means(codes, [box[None]], 1 / stride)[0][:, :, None, None]


def constant(images: Tensor, stride: int) -> Tensor:
    return torch.full((len(images), 3, -(-images.shape[2] // stride), -(-images.shape[3] // stride)), 0.7)


def random_picture(seed: int) -> Tensor:
    return torch.randint(0, 256, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_position_codes_are_found_up_to_the_grids_own_oracle(made_up: MadeUp) -> None:
    searcher = Searcher(made_up(64, one_hot_positions), PROTOCOL, SIZE)
    found = searcher.search([(f"{i}.png", coordinates()) for i in range(40)], seed=0)
    reached = np.array([one.ious[one.chosen["_same_pixels"]] for one in found])
    oracle = np.array([one.ious.max() for one in found])
    assert (reached >= 0.5).all()
    assert reached.mean() > oracle.mean() - 0.06


def test_a_constant_map_gives_the_first_candidate_whatever_the_patch(made_up: MadeUp) -> None:
    searcher = Searcher(made_up(3, constant), PROTOCOL, SIZE)
    found = searcher.search([(f"{i}.png", random_picture(i)) for i in range(8)], seed=0)
    assert {index for one in found for index in one.chosen.values()} == {0}
    box = np.array(draw_patch(PROTOCOL, SIZE, 0, "5.png").box, np.float64)
    assert found[5].ious[0] == overlaps(box, candidate_boxes(PROTOCOL, SIZE)[:1])[0]


def test_the_search_is_that_of_a_slow_loop(network: Extractor) -> None:
    picture = random_picture(1)
    (found,) = Searcher(network, PROTOCOL, SIZE).search([("a.png", picture)], seed=3)
    patch = draw_patch(PROTOCOL, SIZE, 3, "a.png")
    boxes = torch.from_numpy(candidate_boxes(PROTOCOL, SIZE)).float()
    view = view_pixels(picture, patch)
    for stride, pixels, name in ((16, view, ""), (32, view, "_stride32"), (16, cut(picture, patch.box), "_same_pixels")):
        maps = network.forward(normalise(picture, network.facts)[None], [stride], pooled=False).maps[stride]
        query = network.forward(normalise(pixels, network.facts)[None], [stride], pooled=False).maps[stride].mean((2, 3))
        scores = torch.cosine_similarity(region_means(maps, [boxes], 1 / stride)[0], query, dim=1)
        assert scores[found.chosen[name]] == pytest.approx(float(scores.max()), abs=3e-6)
    assert set(found.chosen) == {"", "_stride32", "_same_pixels"}


def test_an_image_is_judged_alike_alone_and_among_others(network: Extractor) -> None:
    searcher = Searcher(network, PROTOCOL, SIZE)
    pictures = [(f"{i}.png", random_picture(i)) for i in range(3)]
    together = searcher.search(pictures, seed=0)
    alone = [searcher.search([one], seed=0)[0] for one in pictures]
    assert [one.chosen for one in together] == [one.chosen for one in alone]
    assert searcher.search([], seed=0) == []


def test_a_view_without_change_is_the_cut_itself_and_a_flip_mirrors_it() -> None:
    picture = random_picture(2)
    patch = draw_patch(PROTOCOL, SIZE, 0, "a.png")
    x1, y1, x2, y2 = patch.box
    still = replace(patch, view=patch.box, view_wh=(x2 - x1, y2 - y1), flip=False, jitter=(1.0, 1.0, 1.0, 0.0))
    pixels = picture[:, y1:y2, x1:x2]
    assert (view_pixels(picture, still).int() - pixels.int()).abs().max() <= 2  # hue goes through HSV and back
    mirrored = view_pixels(picture, replace(still, flip=True))
    assert (mirrored.int() - pixels.flip(2).int()).abs().max() <= 2


def test_colours_change_in_the_drawn_order() -> None:
    picture = random_picture(3)
    patch = replace(draw_patch(PROTOCOL, SIZE, 0, "a.png"), flip=False, jitter=(1.4, 0.6, 1.3, 0.1), order=(3, 1, 0, 2))
    w, h = patch.view_wh
    slow = F.resize(cut(picture, patch.view), [h, w], antialias=True)
    slow = F.adjust_saturation(F.adjust_brightness(F.adjust_contrast(F.adjust_hue(slow, 0.1), 0.6), 1.4), 1.3)
    assert torch.equal(view_pixels(picture, patch), slow)
    assert not torch.equal(view_pixels(picture, replace(patch, order=(0, 1, 2, 3))), slow)


def test_a_network_that_takes_no_small_input_gets_larger_queries_and_this_is_counted(
    fill: Fill, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    convnext = load("random:convnext_atto", device="cpu")
    judged = relocate.run(make_job(PROTOCOL, fill(tmp_path / "data", {"x": 20}), convnext))
    assert judged.result.counts["queries_enlarged"] > 0
    assert any("queries were enlarged" in note for note in judged.result.notes)


def test_each_seed_draws_patches_of_its_own(make_job: Callable[..., Job], tmp_path: Path, made_up: MadeUp) -> None:
    (tmp_path / "data").mkdir()
    for number in range(15):
        Image.fromarray(coordinates().permute(1, 2, 0).numpy()).save(tmp_path / "data" / f"{number}.png")
    protocol = replace(PROTOCOL, large_input_px=SIZE)
    job = make_job(protocol, tmp_path / "data", made_up(64, one_hot_positions))
    first, again, other = relocate.run(job), relocate.run(job), relocate.run(replace(job, seed=1))
    assert first.outcomes["miou_same_pixels"].tolist() == again.outcomes["miou_same_pixels"].tolist()
    assert first.outcomes["miou_same_pixels"].tolist() != other.outcomes["miou_same_pixels"].tolist()
    assert first.result.id != other.result.id
    assert first.result.metrics["acc50_same_pixels"].value == 1.0
    assert first.result.rows["oracle"]["acc50"] == 1.0
