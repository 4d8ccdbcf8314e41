"""Features of cells: the last stage on each, and cuts that tell nothing of where they are from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from insloc_eval.features import grid_cells
from insloc_eval.job import Job, NotApplicable
from insloc_eval.protocols import PATCHES_ISOLATED, PATCHES_LINEAR_C4, PATCHES_WINDOW, Protocol
from insloc_eval.tasks import patches
from insloc_eval.tasks.cells import c4_vectors, cell_tables, cut_windows
from insloc_hub.encoders.c4 import c4_region_vectors
from insloc_hub.errors import BadImage
from insloc_hub.models.extractor import Extractor, load

Fill = Callable[..., Path]
MakeJob = Callable[..., Job]
MadeUp = Callable[..., Extractor]


def mean_colours(images: Tensor, stride: int) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(images, (-(-images.shape[2] // stride), -(-images.shape[3] // stride)))


def test_the_last_stage_on_cells_is_that_of_pretraining_box_by_box(network: Extractor) -> None:
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    stage = network.model.get_submodule("layer4")
    maps = network.forward(images, [16], pooled=False).maps[16]
    cells = grid_cells(3, 128)
    found = c4_vectors(network, stage, maps, [cells, cells[:2]], 8)
    assert found.shape == (11, 512)
    with torch.no_grad():
        for row, (image, cell) in enumerate([(0, i) for i in range(9)] + [(1, 0), (1, 1)]):
            slow = c4_region_vectors(network.model, stage, images[image : image + 1], cells[cell : cell + 1], 8)
            assert torch.allclose(found[row], slow[0], atol=1e-4)


def test_many_cells_are_cut_into_batches_and_none_give_an_empty_table(network: Extractor) -> None:
    stage = network.model.get_submodule("layer4")
    maps = torch.randn(1, 256, 4, 4, generator=torch.Generator().manual_seed(1))
    box = torch.tensor([[3.0, 5.0, 40.0, 60.0]])
    many = c4_vectors(network, stage, maps, [box.repeat(70, 1)], 4)
    slow = stage(roi_align(maps, [box], 4, 1 / 16, 0, True)).mean((2, 3))
    assert torch.allclose(many, slow.expand(70, -1), atol=1e-5)
    assert c4_vectors(network, stage, maps, [box[:0]], 4).shape == (0, 512)


@pytest.mark.parametrize("wh", [(64, 64), (61, 90), (5, 5)])
@pytest.mark.parametrize("protocol", [PATCHES_ISOLATED, PATCHES_WINDOW], ids=lambda p: p.name)
def test_cuts_are_of_one_size_lie_inside_and_reach_all_borders(protocol: Protocol, wh: tuple[int, int]) -> None:
    w, h = wh
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    picture = torch.stack([x, y, torch.zeros_like(x)]).to(torch.uint8)
    share = protocol.span / protocol.parts  # type: ignore[attr-defined]
    wide = int(w * share)
    cuts = cut_windows(picture, protocol, 32 * max(wide, 1))  # type: ignore[arg-type]
    # Enlarged a whole number of times along x, so that first and last columns are the edge pixels themselves.
    lefts, rights = cuts[:, 0, 0, 0].tolist(), cuts[:, 0, 0, -1].tolist()
    assert [right - left + 1 for left, right in zip(lefts, rights, strict=True)] == [wide] * 9
    assert lefts[:3] == lefts[3:6] == lefts[6:] and lefts[0] == 0 and rights[2] == w - 1
    tops = cuts[:, 1, 0, 0].tolist()
    assert (tops[0] == tops[1] == tops[2] == 0 and tops[6] >= tops[3] > 0) or h < 6


def test_a_picture_too_small_to_cut_is_refused() -> None:
    with pytest.raises(BadImage, match="2 x 40 pixels can't be cut into 3 parts"):
        cut_windows(torch.zeros(3, 40, 2, dtype=torch.uint8), PATCHES_ISOLATED, 32)


def test_the_feature_of_a_window_is_that_of_its_middle_cell(
    fill: Fill, make_job: MakeJob, tmp_path: Path, made_up: MadeUp
) -> None:
    from PIL import Image

    folder = tmp_path / "data"
    folder.mkdir()
    pixels = torch.zeros(75, 75, 3, dtype=torch.uint8)
    pixels[30:45, 30:45, 1] = 255  # the cell in the middle of the 5 x 5 grid
    for number in range(12):
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    for protocol, expected in ((PATCHES_WINDOW, 1.0), (PATCHES_ISOLATED, (15 / 25) ** 2)):
        _, test = cell_tables(make_job(replace(protocol, small_input_px=512), folder, made_up(3, mean_colours)))
        middle, others = test.values[:, 4, 1], test.values[:, [0, 2, 6, 8], 1]
        assert middle.mean().item() == pytest.approx(expected, abs=0.15)
        assert others.max() < 0.15


@pytest.mark.parametrize("protocol", [PATCHES_ISOLATED, PATCHES_WINDOW], ids=lambda p: p.name)
def test_cut_cells_of_a_network_that_sees_colour_only_are_told_apart_by_nothing_but_content(
    protocol: Protocol, fill: Fill, make_job: MakeJob, tmp_path: Path, made_up: MadeUp
) -> None:
    def positions(images: Tensor, stride: int) -> Tensor:
        h, w = -(-images.shape[2] // stride), -(-images.shape[3] // stride)
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        return torch.stack([x, y, torch.ones(h, w)]).expand(len(images), 3, h, w)

    result = patches.run(make_job(protocol, fill(tmp_path / "data", {"x": 30}), made_up(3, positions))).result
    assert result.metrics["top1"].value == pytest.approx(1 / 9)  # a map of positions knows nothing of where it was cut
    table = result.maps["share of each cell that is put in its place"]
    assert sum(map(sum, table)) / 9 == pytest.approx(1 / 9)


def test_c4_is_not_applicable_without_a_single_last_stage(fill: Fill, make_job: MakeJob, tmp_path: Path) -> None:
    mobile = load("random:mobilenetv3_small_050", device="cpu")
    with pytest.raises(NotApplicable, match="mobilenetv3_small_050 has no single last stage"):
        patches.run(make_job(PATCHES_LINEAR_C4, fill(tmp_path / "data", {"x": 20}), mobile))


def test_the_grid_of_the_last_stage_is_in_proportion_to_the_input() -> None:
    assert [PATCHES_LINEAR_C4.roi_size(size) for size in (128, 192, 256)] == [8, 12, 14]
