"""Frozen features: the same numbers as the public Extractor, one row an image, bad images named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from insloc_eval.features import check_frozen, decoded, extract, grid_cells, grid_spec, one_thread_each, pool, pooled_spec
from insloc_hub.data.folder import Sample, list_images
from insloc_hub.errors import BadImage, NotFinite
from insloc_hub.models.extractor import Extractor, load

Fill = Callable[..., Path]


def test_pooled_features_are_those_of_the_public_extractor(network: Extractor, fill: Fill, tmp_path: Path) -> None:
    images = list_images(fill(tmp_path, {".": 3}))
    table = extract(network, images.samples, pooled_spec(network, "whole", 64), "test")
    assert table.keys == tuple(s.key for s in images.samples)
    transform = network.transform("whole", 64)
    from insloc_hub.data.decode import read

    inputs = torch.stack([transform(read(s.path))[0] for s in images.samples])
    known = network.forward(inputs, [], pooled=True).pooled
    assert known is not None
    assert torch.allclose(table.values, known, atol=1e-5)


def test_grid_features_are_region_means_of_the_last_map(network: Extractor) -> None:
    from torchvision.ops import roi_align

    inputs = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    values = pool(network, inputs, grid_spec(network, "whole", 96, grid=3, bins=7))
    maps = network.forward(inputs, [32], pooled=False).maps[32]
    for cell, box in enumerate(grid_cells(3, 96)):
        slow = roi_align(maps, [box[None]] * 2, (7, 7), 1 / 32, aligned=True).mean((2, 3))
        assert torch.allclose(values[:, cell], slow, atol=1e-5)


def test_cells_are_numbered_row_by_row_and_fill_the_image() -> None:
    cells = grid_cells(3, 256)
    assert cells[5].tolist() == pytest.approx([2 * 256 / 3, 256 / 3, 256, 2 * 256 / 3])
    assert ((cells[:, 2:] - cells[:, :2]).prod(dim=1)).sum().item() == pytest.approx(256**2)


def test_a_truncated_image_among_good_ones_is_named_and_the_rest_have_features(
    network: Extractor, fill: Fill, tmp_path: Path
) -> None:
    fill(tmp_path, {".": 4})
    whole = (tmp_path / "002.png").read_bytes()
    (tmp_path / "002.png").write_bytes(whole[: len(whole) // 2])
    table = extract(network, list_images(tmp_path).samples, pooled_spec(network, "whole", 32), "test")
    assert table.keys == ("000.png", "001.png", "003.png") and table.values.shape == (3, 512)
    assert list(table.skipped) == ["002.png"]
    assert "cut short" in table.skipped["002.png"] and str(tmp_path) not in table.skipped["002.png"]


def test_images_come_in_order_whatever_their_size(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3}, size=(400, 300))
    fill(tmp_path, {"b": 3}, size=(8, 8))
    listed = list_images(tmp_path).samples
    assert [sample for sample, _ in decoded(listed, lambda image: image)] == list(listed)
    assert list(decoded([], lambda image: image)) == []


def test_a_missing_file_is_an_unreadable_image(tmp_path: Path) -> None:
    ((_, error),) = decoded([Sample("gone.png", tmp_path / "gone.png")], lambda image: image)
    assert isinstance(error, BadImage)


def test_a_network_that_gives_nan_is_named_with_the_image(fill: Fill, tmp_path: Path) -> None:
    broken = load("random:resnet18@1", device="cpu")
    with torch.no_grad():
        broken.model.get_parameter("conv1.weight").fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"random:resnet18@1.*000\.png"):
        extract(broken, list_images(fill(tmp_path, {".": 2})).samples, pooled_spec(broken, "whole", 32), "test")


def test_a_network_that_is_not_frozen_is_found_out(fill: Fill, tmp_path: Path) -> None:
    trained = load("random:resnet18@2", device="cpu")
    check_frozen(trained)
    trained.model.train()  # batch norm now counts what it sees
    images = list_images(fill(tmp_path, {".": 2}))
    with pytest.raises(RuntimeError, match="changed"):
        extract(trained, images.samples, pooled_spec(trained, "whole", 32), "test")


def test_everything_that_changes_features_changes_the_hash(network: Extractor) -> None:
    spec = pooled_spec(network, "whole", 128)
    others = [replace(spec, size_px=64), replace(spec, dtype="bf16"), grid_spec(network, "whole", 128, 3, 7)]
    others += [grid_spec(network, "whole", 128, 3, 14), replace(spec, normalisation=(0.5,) * 6)]
    assert len({one.hash for one in [spec, *others]}) == 6


def test_the_number_of_threads_is_given_back_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), one_thread_each():
        assert torch.get_num_threads() == 1
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_a_mobilenet_gives_grid_features_although_it_stops_early_only_for_maps() -> None:
    mobile = load("random:mobilenetv3_small_050", device="cpu")
    values = pool(mobile, torch.zeros(1, 3, 64, 64), grid_spec(mobile, "whole", 64, grid=3, bins=7))
    assert values.shape == (1, 9, mobile.channels[32])
