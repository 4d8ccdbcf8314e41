"""One optimizer step as a function of (state, batch), in the released order (paper.md A.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from insloc_hub.boxes.augment import augment_boxes
from insloc_hub.contrast.infonce import infonce
from insloc_hub.contrast.twin import update_twin
from insloc_hub.parallel import distributed
from insloc_hub.parallel.groupbn import draw_shuffle, forward_in_groups
from insloc_hub.pretrain.profile import Lap, no_lap
from insloc_hub.pretrain.state import State, StepFacts
from insloc_hub.shapes import Float


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Normalised views and their true boxes, on the device of the state; with torchrun, this process's share."""

    query: Float[Tensor, "b 3 s s"]
    query_boxes: Float[Tensor, "b 4"]
    key: Float[Tensor, "b 3 s s"]
    key_boxes: Float[Tensor, "b 4"]


def train_step(state: State, batch: Batch, learning_rate: float, lap: Lap = no_lap) -> StepFacts:
    """Query, twin update, shuffled keys, loss against the queue as it was, backward, update, enqueue.

    The keys are written after the backward pass instead of before it: the same numbers, without the release's copy of
    the whole queue (paper.md A.8 no. 11).
    """
    recipe = state.recipe
    device = batch.query.device
    groups = recipe.bn_groups // distributed.world()
    # Anew at each step from (seed, step), alike on all processes: a resumed run needs no generator state.
    generator = torch.Generator(device=device).manual_seed(recipe.seed * 1_000_003 + state.step)
    mine = distributed.mine(recipe.batch)

    half = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    with half:
        query = forward_in_groups(state.encoder, batch.query, query_boxes(state, batch, generator), groups)  # [b l d]

    lap("query forward")
    update_twin(state.twin, state.encoder, recipe.key_momentum)
    lap("twin update")

    # Shuffled between groups and processes: batch statistics give the positive away (MoCo, sec. 3.3).
    images, boxes = distributed.gather(batch.key), distributed.gather(batch.key_boxes)
    shuffle = draw_shuffle(len(images), generator)
    order = shuffle.order[mine]
    with torch.no_grad(), half:
        # The key always has the exact box, on all levels.
        key = forward_in_groups(state.twin, images[order], on_levels(boxes[order], len(recipe.augment_levels)), groups)
    keys = distributed.gather(key.float())[shuffle.inverse]  # of the whole batch, in its order
    lap("key forward")

    losses, accuracy = infonce(query.float(), keys[mine], state.queue.keys, recipe.temperature)
    loss = (losses * losses.new_tensor(recipe.level_weights)).sum()
    lap("loss")
    descend(state.encoder, state.optimizer, loss, learning_rate)
    lap("backward + update")
    state.queue.enqueue(keys)
    lap("enqueue")
    state.step += 1
    return StepFacts(loss=distributed.mean(loss), accuracy=distributed.mean(accuracy), keys=keys)


def query_boxes(state: State, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 4"]:
    """The query's box on each level: the true one, or one random anchor for the levels that the recipe says."""
    levels = state.recipe.augment_levels
    boxes = on_levels(batch.query_boxes, len(levels))
    if not any(levels):
        return boxes
    # Drawn for the whole batch on every process, so that the numbers do not depend on how many there are.
    every = augment_boxes(distributed.gather(batch.query_boxes), state.anchors, generator)
    chosen = torch.tensor(levels, device=boxes.device)[None, :, None]
    return torch.where(chosen, every[distributed.mine(len(every))][:, None], boxes)


def on_levels(boxes: Float[Tensor, "b 4"], levels: int) -> Float[Tensor, "b l 4"]:
    """The same box on every level."""
    return boxes[:, None].expand(-1, levels, -1)


def descend(module: nn.Module, optimizer: torch.optim.SGD, loss: Tensor, learning_rate: float) -> None:
    """Backward, gradients averaged over processes, one update."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    distributed.mean_gradients(module.parameters())
    optimizer.step()
