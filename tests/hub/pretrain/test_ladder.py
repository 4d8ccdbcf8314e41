"""The rungs between MoCo v2 and InsLoc, and the row with labels: what each changes, and that each learns."""

import dataclasses
import itertools
import math

import pytest
import torch

from insloc_hub.pretrain.state import LabelState, State, new_label_state, new_state
from insloc_hub.pretrain.step import Batch, train_step
from insloc_hub.pretrain.supervised import LabelledBatch, label_step
from insloc_hub.recipe import Recipe, at_batch, at_canvas
from insloc_hub.recipes import RECIPES, find_recipe

CPU = torch.device("cpu")
LADDER = ["moco_v2_r18_tiny", "paste_whole_r18_tiny", "paste_box_r18_tiny", "insloc_c4_r18_tiny"]


def shrunk(name: str) -> Recipe:
    """The recipe at a size that trains in a blink."""
    small = at_batch(at_canvas(find_recipe(name), 64), 8, bn_groups=2, queue=32, learning_rate=0.02)
    return dataclasses.replace(small, arch="resnet10t", epochs=2)


def batch(b: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, b, 3, 64, 64, generator=generator)
    corner = torch.rand(b, 2, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 25 + torch.rand(b, 2, 2, generator=generator) * 15], dim=2)
    return Batch(query=query, query_boxes=boxes[:, 0].contiguous(), key=key, key_boxes=boxes[:, 1].contiguous())


def test_every_rung_changes_one_thing() -> None:
    rungs = [find_recipe(name).as_dict() for name in LADDER]
    changed = [{key for key in a if a[key] != b[key]} - {"name"} for a, b in itertools.pairwise(rungs)]
    assert changed == [{"views"}, {"variant"}, {"augment_levels"}]


def test_the_rows_beside_the_ladder_change_what_they_say() -> None:
    c4, fpn, moco, labels = (
        find_recipe(f"{name}_r18_tiny").as_dict() for name in ("insloc_c4", "insloc_fpn", "moco_v2", "supervised")
    )
    assert {k for k in c4 if c4[k] != fpn[k]} == {"name", "variant", "augment_levels", "level_weights"}
    assert {k for k in moco if moco[k] != labels[k]} == {"name", "objective", "learning_rate"}
    big, control = find_recipe("insloc_c4_r50_200ep").as_dict(), find_recipe("moco_v2_r50_200ep").as_dict()
    assert {k for k in big if big[k] != control[k]} == {"name", "views", "variant", "augment_levels"}
    assert (fpn["augment_levels"], fpn["level_weights"]) == ((False, False, False, True), (1.0, 1.0, 1.0, 1.0))


def test_crops_are_seven_eighths_of_the_canvas() -> None:
    assert [find_recipe(n).view_side for n in ("moco_v2_r50_200ep", "moco_v2_r18_tiny", "insloc_c4_r18_tiny")] == [
        224,
        112,
        128,
    ]


def test_every_recipe_says_its_command_and_long_runs_their_cost_or_scores() -> None:
    for name, recipe in RECIPES.items():
        assert f"--recipe {name}" in (recipe.__doc__ or "") or name == "insloc_c4_small", name
        if "_r50_" in name:
            assert "Expected" in (recipe.__doc__ or ""), name


@pytest.mark.parametrize("name", [*LADDER, "insloc_fpn_r18_tiny"])
def test_the_loss_of_every_contrast_falls_on_a_fixed_batch(name: str) -> None:
    state = new_state(shrunk(name), CPU)
    assert isinstance(state, State)
    start, losses = state.queue.keys.clone(), []
    for _ in range(20):
        state.queue.keys.copy_(start)  # the batch's own keys would be its negatives
        losses.append(float(train_step(state, batch(), 0.02).loss))
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-4:]) / 4 < 0.7 * losses[0]


def test_the_loss_with_labels_falls_on_a_fixed_batch() -> None:
    state = new_label_state(shrunk("supervised_r18_tiny"), 4, CPU)
    assert isinstance(state, LabelState)
    data = LabelledBatch(images=batch().query, labels=torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))
    first = label_step(state, data, 0.02)
    assert float(first.loss) == pytest.approx(math.log(4), abs=0.7)
    losses = [float(label_step(state, data, 0.02).loss) for _ in range(19)]
    assert losses[-1] < 0.5 * float(first.loss) and state.step == 20
    assert float(label_step(state, data, 0.0).accuracy) == 1.0


def test_weights_of_levels_scale_their_losses() -> None:
    recipe = shrunk("insloc_fpn_r18_tiny")
    plain = train_step(new_state(recipe, CPU), batch(), 0.01)
    double = train_step(new_state(dataclasses.replace(recipe, level_weights=(2.0,) * 4), CPU), batch(), 0.01)
    only = []
    for level in range(4):
        weights = tuple(float(level == other) for other in range(4))
        only.append(train_step(new_state(dataclasses.replace(recipe, level_weights=weights), CPU), batch(), 0.01))
    assert float(double.loss) == pytest.approx(2 * float(plain.loss), rel=1e-5)
    assert sum(float(facts.loss) for facts in only) == pytest.approx(float(plain.loss), rel=1e-5)
    assert plain.accuracy.shape == (4,)


def test_the_augmented_box_goes_to_the_levels_that_the_recipe_names() -> None:
    state, data = new_state(dataclasses.replace(shrunk("insloc_fpn_r18_tiny"), bn_groups=1), CPU), batch()
    seen: list[torch.Tensor] = []
    state.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].clone()))
    train_step(state, data, 0.01)
    true = data.query_boxes
    assert all(torch.equal(seen[0][:, level], true) for level in range(3))
    assert not (seen[0][:, 3] == true).all(dim=1).any()
    anchors = {tuple(row) for row in state.anchors.tolist()}
    assert all(tuple(row) in anchors for row in seen[0][:, 3].tolist())
