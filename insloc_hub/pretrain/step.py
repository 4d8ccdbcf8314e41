"""One optimizer step as a function of (state, batch), in the released order (paper.md A.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from insloc_hub.boxes.anchors import anchor_grid
from insloc_hub.boxes.augment import augment_boxes
from insloc_hub.contrast.infonce import infonce
from insloc_hub.contrast.queue import Queue
from insloc_hub.contrast.twin import make_twin, update_twin
from insloc_hub.encoders.c4 import C4Encoder, build_c4
from insloc_hub.errors import BadRun, InslocError, UnknownName
from insloc_hub.parallel.groupbn import draw_shuffle, forward_in_groups
from insloc_hub.pretrain.schedule import make_optimizer
from insloc_hub.recipes import Recipe
from insloc_hub.shapes import Float

QUEUE_STREAM = 11  # added to the recipe's seed: apart from the encoder's


@dataclass(kw_only=True, slots=True)
class State:
    """Everything that training changes; `step` counts finished optimizer steps."""

    recipe: Recipe
    encoder: C4Encoder
    twin: C4Encoder
    queue: Queue
    optimizer: torch.optim.SGD
    anchors: Tensor
    step: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Normalised views and their true boxes, on the device of the state."""

    query: Float[Tensor, "b 3 s s"]
    query_boxes: Float[Tensor, "b 4"]
    key: Float[Tensor, "b 3 s s"]
    key_boxes: Float[Tensor, "b 4"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """What a step tells: still on the device, so that reading them is the caller's choice of when to wait."""

    loss: Float[Tensor, ""]
    """Sum over levels of the mean InfoNCE, in nats."""
    accuracy: Float[Tensor, " l"]
    """Per level, share of queries whose key beats the whole queue."""


def new_state(recipe: Recipe, device: torch.device) -> State:
    """A fresh state whose numbers depend on the recipe alone. BadRun: its architecture can't carry the encoder."""
    try:
        encoder = build_c4(recipe.arch, recipe.roi_size, recipe.embedding_dim, recipe.seed)
    except UnknownName:
        raise
    except InslocError as error:
        raise BadRun(str(error)) from None
    encoder = encoder.to(device).train()
    generator = torch.Generator().manual_seed(recipe.seed + QUEUE_STREAM)
    return State(
        recipe=recipe,
        encoder=encoder,
        twin=make_twin(encoder),
        queue=Queue(1, recipe.embedding_dim, recipe.queue, generator).to(device),
        optimizer=make_optimizer(encoder, recipe),
        anchors=anchor_grid(recipe.canvas).to(device),
    )


def train_step(state: State, batch: Batch, learning_rate: float) -> StepFacts:
    """Query, twin update, shuffled keys, loss against the queue as it was, backward, update, enqueue.

    The keys are written after the backward pass instead of before it: the same numbers, without the release's copy of
    the whole queue (paper.md A.8 no. 11).
    """
    recipe = state.recipe
    device = batch.query.device
    # Anew at each step from (seed, step): a resumed run needs no generator state.
    generator = torch.Generator(device=device).manual_seed(recipe.seed * 1_000_003 + state.step)

    boxes = batch.query_boxes
    if recipe.box_augmentation:
        boxes = augment_boxes(boxes, state.anchors, generator)
    half = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    with half:
        query = forward_in_groups(state.encoder, batch.query, boxes, recipe.bn_groups)  # [b 1 d]

    update_twin(state.twin, state.encoder, recipe.key_momentum)

    # Shuffled between groups: batch statistics give the positive away (MoCo, sec. 3.3).
    shuffle = draw_shuffle(len(batch.key), generator)
    with torch.no_grad(), half:
        key = forward_in_groups(state.twin, batch.key[shuffle.order], batch.key_boxes[shuffle.order], recipe.bn_groups)[
            shuffle.inverse
        ]

    losses, accuracy = infonce(query.float(), key.float(), state.queue.keys, recipe.temperature)
    loss = losses.sum()

    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()

    state.queue.enqueue(key.float())
    state.step += 1
    return StepFacts(loss=loss.detach(), accuracy=accuracy)
