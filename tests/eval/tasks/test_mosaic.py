"""Mosaics: composition by rule, features where the objects are, closed forms, what clutter costs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align

from insloc_eval.job import Job
from insloc_eval.objects import ObjectBox
from insloc_eval.protocols import REGIONS_MOSAIC, REGIONS_MOSAIC_A, REGIONS_MOSAIC_B
from insloc_eval.sets import halves_of
from insloc_eval.tasks import mosaic
from insloc_eval.tasks.mosaic_draws import Sheet, compose, regions_of
from insloc_eval.tasks.mosaic_features import assemble, paths_of, region_table
from insloc_hub.boxes.means import region_means
from insloc_hub.data.decode import read
from insloc_hub.data.folder import Sample
from insloc_hub.data.transform import normalise, resize
from insloc_hub.encoders.c4 import c4_region_vectors
from insloc_hub.models.extractor import Extractor, load

MakeJob = Callable[..., Job]
MadeUp = Callable[..., Extractor]
COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
QUICK = replace(REGIONS_MOSAIC, learning_rates=(0.1, 1.0), weight_decays=(0.0,), rows_seen=40_000)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes: a square of the class's colour on grey, 24 of each for training and 14 for the test."""
    folder = tmp_path_factory.mktemp("coloured")
    generator = np.random.default_rng(1)
    boxes = {}
    for half, number in (("train", 24), ("val", 14)):
        for name, colour in COLOURS.items():
            (folder / half / name).mkdir(parents=True)
            for i in range(number):
                pixels = np.full((64, 64, 3), 128, np.uint8)
                x, y = generator.integers(0, 24, 2)
                pixels[y : y + 40, x : x + 40] = colour
                Image.fromarray(pixels).save(folder / half / name / f"{name}_{half}{i:02d}.png")
                boxes[f"{name}_{half}{i:02d}"] = [int(x), int(y), int(x) + 40, int(y) + 40]
    boxes |= {"red_val00": [0, 0, 64, 64], "red_val01": [4, 4, 11, 60], "red_val02": [4, 4, 12, 60]}
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


def samples(**classes: int) -> tuple[Sample, ...]:
    return tuple(
        Sample(f"{c}/{i:02d}.png", Path(f"{c}/{i:02d}.png"), k) for k, (c, n) in enumerate(classes.items()) for i in range(n)
    )


def mean_colours(images: Tensor, stride: int) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(images, (images.shape[2] // stride, images.shape[3] // stride))


def constant(images: Tensor, stride: int) -> Tensor:
    return torch.full((len(images), 3, images.shape[2] // stride, images.shape[3] // stride), 0.7)


def test_every_image_is_used_once_in_an_order_that_the_keys_alone_decide() -> None:
    images = samples(a=20, b=10)
    sheets = compose(REGIONS_MOSAIC, "A", images)
    assert [sheet.name for sheet in sheets] == ["A/0000", "A/0001", "A/0002"] and {len(s.tiles) for s in sheets} == {9}
    used = [s.key for sheet in sheets for s in sheet.tiles]
    assert len(set(used)) == 27  # three images are left over
    assert compose(REGIONS_MOSAIC, "A", images[::-1]) == sheets != compose(REGIONS_MOSAIC, "B", images)
    assert used != sorted(used)


def test_a_frozen_composition() -> None:
    """Made with the first version of this file: every stored record hangs on it."""
    (sheet,) = compose(REGIONS_MOSAIC, "A", samples(a=9))
    assert "".join(s.key[3] for s in sheet.tiles) == FROZEN


FROZEN = "748230516"


def test_boxes_stand_where_their_tile_is_and_some_are_left_out_by_rule() -> None:
    tiles = samples(a=9)
    known = {s.key: ObjectBox(box=(10, 20, 50, 60), size_wh=(100, 80)) for s in tiles}
    known[tiles[0].key] = ObjectBox(box=(0, 0, 100, 80), size_wh=(100, 80))
    known[tiles[1].key] = ObjectBox(box=(0, 0, 100, 9.9), size_wh=(100, 80))  # 7.92 px in the tile
    dropped: dict[str, int] = {}
    regions = regions_of(REGIONS_MOSAIC, Sheet(name="A/0", tiles=tiles), known, dropped)
    assert dropped == {"whole_image": 1, "side_below_8_px": 1}
    assert [r.place for r in regions] == [2, 3, 4, 5, 6, 7, 8]
    alone = np.array([6.4, 16, 32, 48]) * 2
    assert regions[3].alone == pytest.approx(alone)  # the tile at row 1, column 2
    assert regions[3].inside == pytest.approx(alone + np.array([256, 128, 256, 128]))


def test_tiles_are_laid_row_by_row() -> None:
    tiles = torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1).expand(9, 3, 64, 64)
    sheet = assemble(REGIONS_MOSAIC, tiles.contiguous())
    assert sheet.shape == (3, 192, 192)
    assert sheet[0, 32::64, 32::64].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_features_are_those_of_a_slow_loop_on_every_path(coloured: Path, make_job: MakeJob) -> None:
    network = load("random:test_resnet", device="cpu")
    job = make_job(REGIONS_MOSAIC, coloured, network)
    assert job.split.boxes is not None
    paths = paths_of(job, REGIONS_MOSAIC)
    assert paths.names == ("c4", "stride32", "stride16")
    sheets = compose(REGIONS_MOSAIC, "A", job.split.test.samples)[:1]
    table = region_table(job, REGIONS_MOSAIC, paths, sheets, job.split.boxes.test, "test")
    regions = regions_of(REGIONS_MOSAIC, sheets[0], job.split.boxes.test, {})
    tiles = torch.stack([read(s.path) for s in sheets[0].tiles])
    picture = normalise(resize(assemble(REGIONS_MOSAIC, tiles), (384, 384)), network.facts)[None]
    stage = network.model.get_submodule("layer4")
    assert len(table.labels) == len(regions) and table.place == tuple(r.place for r in regions)
    for row in (0, len(regions) - 1):
        region = regions[row]
        small = normalise(resize(tiles[region.place], (128, 128)), network.facts)[None]
        for where, image, box in (("inside", picture, region.inside), ("alone", small, region.alone)):
            found, boxes = getattr(table, where), torch.tensor([box])
            with torch.no_grad():
                slow = c4_region_vectors(network.model, stage, image, boxes, 14)
            assert torch.allclose(found["c4"][row], slow[0], atol=1e-3)
            for stride in (16, 32):
                maps = network.forward(image, [stride], pooled=False).maps[stride]
                slow = roi_align(maps, [boxes], 7, 1 / stride, 0, True).mean((2, 3))
                assert torch.allclose(region_means(maps, [boxes], 1 / stride)[0], slow, atol=1e-4)
                assert torch.allclose(found[f"stride{stride}"][row], slow[0], atol=1e-3)
        assert table.coordinates[row, :4].tolist() == pytest.approx([v / 128 for v in region.alone])
        assert table.coordinates[row, 4:].argmax() == region.place


def test_colours_that_are_classes_are_read_out_in_full_and_a_constant_map_gives_chance(
    coloured: Path, make_job: MakeJob, made_up: MadeUp
) -> None:
    judged = mosaic.run(make_job(QUICK, coloured, made_up(3, mean_colours)))
    result = judged.result
    assert "top1" not in result.metrics and any(
        note.startswith("no c4 row: made up") or "no c4 row" in note for note in result.notes
    )
    assert result.metrics["top1_stride16"].value == 1.0 == result.metrics["alone_stride16"].value
    assert result.metrics["clutter_stride16"].value == 0.0
    assert result.counts["test_mosaics"] == 4 == result.metrics["alone_stride32"].n
    assert {key.split("/")[0] for key in judged.outcomes["keys"]} == {"A", "B"}
    assert result.counts["test_boxes_dropped_whole_image"] + result.counts["test_boxes_dropped_side_below_8_px"] in (1, 2)
    assert result.counts["test_images_left_over"] == 42 - 36 and result.counts["train_mosaics"] == 8
    blind = mosaic.run(make_job(QUICK, coloured, made_up(3, constant))).result
    assert blind.metrics["top1_stride16"].value == pytest.approx(1 / 3, abs=0.12)
    assert blind.rows["chance"]["top1"] == pytest.approx(1 / 3)
    assert set(blind.rows) == {"chance", "most common class", "coordinates alone"}


@pytest.mark.parametrize(("protocol", "half"), [(REGIONS_MOSAIC_A, "A"), (REGIONS_MOSAIC_B, "B")])
def test_a_half_is_asked_by_name_only(protocol: object, half: str, coloured: Path, make_job: MakeJob, made_up: MadeUp) -> None:
    quick = replace(protocol, learning_rates=(1.0,), weight_decays=(0.0,), rows_seen=4_000)  # type: ignore[type-var]
    judged = mosaic.run(make_job(quick, coloured, made_up(3, mean_colours)))
    assert {key.split("/")[0] for key in judged.outcomes["keys"]} == {half}
    assert protocol.by_family is False and protocol.hash() != REGIONS_MOSAIC.hash()  # type: ignore[attr-defined]


def test_the_primary_row_of_a_resnet_is_the_last_stage_on_each_box(coloured: Path, make_job: MakeJob) -> None:
    quick = replace(QUICK, rows_seen=2_000, roi_size=4, tile=32, enlarge=1, least_side=4)
    result = mosaic.run(make_job(quick, coloured, load("random:test_resnet", device="cpu"))).result
    assert list(result.metrics)[:1] == ["top1"] and {"alone", "clutter", "top1_stride32", "alone_stride16"} < set(
        result.metrics
    )
    assert result.metrics["clutter"].value == pytest.approx(result.metrics["alone"].value - result.metrics["top1"].value)


def test_an_unreadable_tile_is_grey_counted_and_named(
    coloured: Path, make_job: MakeJob, made_up: MadeUp, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(coloured, folder)
    job = make_job(QUICK, folder, made_up(3, mean_colours))
    victim = compose(QUICK, "A", halves_of(job.split.test.samples)["A"])[0].tiles[4]
    victim.path.write_bytes(victim.path.read_bytes()[:-30])
    result = mosaic.run(job).result
    assert result.counts["test_unreadable"] == 1 and any(victim.key in note for note in result.notes)
