"""Candidate grids: D.2's checksums, and the separable search against the plain one."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from insloc_eval.protocols import PATCHES_COMPOSITE
from insloc_eval.tasks.candidates import CandidateGrid, GridScorer, best, overlaps, success_map
from insloc_eval.tasks.composite_draws import candidate_grid
from insloc_hub.boxes.means import region_means


def small_grid() -> CandidateGrid:
    return CandidateGrid(size_px=96, centres=6, ratios=(0.5, 1.0, 2.0), sides=(24.0, 37.0, 70.0))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_the_candidates_of_composites_meet_the_checks_of_the_paper_page() -> None:
    """paper.md D.2: first, second, last; column sums; mean area; distinct; touching the border."""
    boxes = candidate_grid(PATCHES_COMPOSITE).boxes()
    assert boxes.shape == (46_080, 4)
    assert boxes[0] == pytest.approx([0, 0, 49.2548, 26.6274], abs=1e-4)
    assert boxes[1] == pytest.approx([0, 0, 57.8174, 30.9087], abs=1e-4)
    assert boxes[-1] == pytest.approx([161.4903, 70.9807, 256, 256], abs=1e-4)
    assert boxes.sum(axis=0) == pytest.approx([3172465.777, 3121500.495, 8624014.223, 8674979.505], abs=1e-3)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert areas.mean() == pytest.approx(15508.0142, abs=1e-4)
    assert len(np.unique(boxes.round(9), axis=0)) == 44_608
    assert ((boxes == 0) | (boxes == 256)).any(axis=1).mean() == pytest.approx(0.768, abs=5e-4)


def test_the_order_is_row_then_column_then_ratio_then_side() -> None:
    grid = small_grid()
    slow = []
    for row in range(6):
        for column in range(6):
            for ratio in grid.ratios:
                for side in grid.sides:
                    x, y, w, h = 16 * column + 8, 16 * row + 8, side / ratio**0.5, side * ratio**0.5
                    slow.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    assert grid.boxes() == pytest.approx(np.array(slow).clip(0, 96))


@pytest.mark.parametrize("cells", [(6, 6), (5, 7)])
def test_scores_are_cosines_of_region_means(cells: tuple[int, int]) -> None:
    grid, queries = small_grid(), noise(2, 9)
    one_map = noise(9, *cells)
    scores = GridScorer(grid, cells, 7, one_map).scores(one_map, queries)
    boxes = torch.from_numpy(grid.boxes()).float()
    if cells == (6, 6):
        means = roi_align(one_map[None], [boxes], 7, 1 / 16, 0, True).mean((2, 3))
        assert torch.allclose(means, region_means(one_map[None], [boxes], 1 / 16)[0], atol=1e-5)
        for query, row in zip(queries, scores, strict=True):
            assert torch.allclose(row.float(), torch.cosine_similarity(means, query[None], dim=1), atol=1e-5)
    assert scores.shape == (2, len(boxes)) and float(scores.abs().max()) <= 1 + 1e-9


def test_a_constant_map_scores_one_everywhere_and_an_empty_one_nothing() -> None:
    grid, query = small_grid(), torch.ones(1, 3)
    scorer = GridScorer(grid, (6, 6), 7, query)
    assert scorer.scores(torch.full((3, 6, 6), 0.7), query) == pytest.approx(1.0, abs=1e-6)
    assert float(scorer.scores(torch.zeros(3, 6, 6), query).abs().max()) == 0.0


@pytest.mark.parametrize(
    ("other", "iou"),
    [([0, 0, 2, 2], 1.0), ([2, 0, 4, 2], 0.0), ([5, 5, 6, 6], 0.0), ([0, 0, 1, 2], 0.5), ([1, 1, 3, 3], 1 / 7)],
)
def test_overlaps_of_boxes(other: list[float], iou: float) -> None:
    assert overlaps(np.array([0.0, 0, 2, 2]), np.array([other], np.float64))[0] == pytest.approx(iou)


@pytest.mark.parametrize(
    ("scores", "index"), [([0.3], 0), ([0.1, 0.9, 0.9 - 1e-7], 1), ([0.9 - 1e-7, 0.9], 0), ([0.9 - 1e-5, 0.9], 1)]
)
def test_ties_go_to_the_lowest_index_and_rounding_makes_no_winner(scores: list[float], index: int) -> None:
    assert best(torch.tensor(scores), 1e-6) == index


def test_the_table_of_successes_tells_rows_from_columns_and_is_left_out_where_a_cell_is_empty() -> None:
    at = np.array([[x, y] for y in (10.0, 45.0, 80.0) for x in (10.0, 45.0, 80.0)])
    boxes = np.concatenate([at - 1, at + 1], axis=1)
    hits = np.zeros(9)
    hits[2] = 1  # upper right
    assert success_map(boxes, hits, 90) == [[0.0, 0.0, 1.0], [0.0] * 3, [0.0] * 3]
    assert success_map(boxes[1:], hits[1:], 90) == []
