"""The anchor grid against its frozen copy and a slow version."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from insloc_hub.boxes.anchors import anchor_grid


def test_the_grid_at_256_px_is_the_frozen_one(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    frozen = golden("anchors")
    grid = anchor_grid(256).numpy()
    assert grid.dtype == np.float32 and grid.shape == (5120, 4)
    assert np.abs(grid - frozen["anchors"]).max() < 1e-4
    assert np.abs(grid[:20] - frozen["base_anchors"]).max() < 1e-4


@pytest.mark.parametrize("canvas", [64, 128, 192])
def test_at_another_canvas_every_anchor_is_in_proportion(canvas: int) -> None:
    assert torch.allclose(anchor_grid(canvas), anchor_grid(256) * canvas / 256, atol=1e-4)


def test_rows_run_over_cells_then_ratios_then_sizes() -> None:
    grid = anchor_grid(128)
    for y, x, r, s in ((0, 0, 0, 0), (3, 11, 2, 1), (15, 15, 4, 3)):
        box = grid[((y * 16 + x) * 5 + r) * 4 + s]
        w, h = float(box[2] - box[0]), float(box[3] - box[1])
        assert h / w == pytest.approx((0.5, 0.75, 1.0, 1.5, 2.0)[r], rel=1e-5)
        assert (w * h) ** 0.5 == pytest.approx((16, 32, 64, 128)[s], rel=1e-5)
        assert [float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2] == pytest.approx([8 * x, 8 * y], abs=1e-4)
