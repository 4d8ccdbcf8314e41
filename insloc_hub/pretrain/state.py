"""Everything that training changes, made from a recipe alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from insloc_hub.boxes.anchors import anchor_grid
from insloc_hub.contrast.queue import Queue
from insloc_hub.contrast.twin import make_twin
from insloc_hub.encoders.build import Encoder, build_classifier, build_encoder
from insloc_hub.encoders.whole import Classifier
from insloc_hub.errors import BadRun, BadSpec, InslocError, UnknownName
from insloc_hub.models.create import create_model
from insloc_hub.pretrain.schedule import make_optimizer
from insloc_hub.recipe import LEVELS, Recipe
from insloc_hub.shapes import Float

Made = TypeVar("Made", bound=nn.Module)
QUEUE_STREAM = 11  # added to the recipe's seed: apart from the encoder's


@dataclass(kw_only=True, slots=True)
class State:
    """Of the contrast; `step` counts finished optimizer steps."""

    recipe: Recipe
    encoder: Encoder
    twin: Encoder
    queue: Queue
    optimizer: torch.optim.SGD
    anchors: Tensor
    """[a 4], pixels of the canvas."""
    step: int = 0

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps, by its name there."""
        return {"encoder": self.encoder, "twin": self.twin, "queue": self.queue}


@dataclass(kw_only=True, slots=True)
class LabelState:
    """Of the supervised reference row."""

    recipe: Recipe
    encoder: Classifier
    optimizer: torch.optim.SGD
    step: int = 0

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps, by its name there."""
        return {"encoder": self.encoder}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """What a step tells: still on the device, so that reading them is the caller's choice of when to wait."""

    loss: Float[Tensor, ""]
    """Weighted sum over levels of the mean loss, in nats."""
    accuracy: Float[Tensor, " l"]
    """Per level, the share of the batch that is recognised."""
    keys: Float[Tensor, "b l d"] | None = None
    """Of the whole batch; None where there are none."""


def new_state(recipe: Recipe, device: torch.device, *, start: bool = True) -> State:
    """A fresh state whose numbers depend on the recipe alone. BadRun: its architecture can't carry the encoder.

    `start=False` leaves out the weights of `recipe.init`: a checkpoint replaces them anyway.
    """
    encoder = _carried(lambda: build_encoder(recipe, _init(recipe) if start else None)).to(device)
    return State(
        recipe=recipe,
        encoder=encoder,
        twin=make_twin(encoder),
        queue=new_queue(recipe).to(device),
        optimizer=make_optimizer(encoder, recipe),
        anchors=anchor_grid(recipe.canvas).to(device),
    )


def new_queue(recipe: Recipe) -> Queue:
    """Random unit keys, on the CPU."""
    generator = torch.Generator().manual_seed(recipe.seed + QUEUE_STREAM)
    return Queue(LEVELS[recipe.variant], recipe.embedding_dim, recipe.queue, generator)


def new_label_state(recipe: Recipe, classes: int, device: torch.device, *, start: bool = True) -> LabelState:
    """As `new_state`, for `classes` labels."""
    encoder = _carried(lambda: build_classifier(recipe, classes, _init(recipe) if start else None)).to(device)
    return LabelState(recipe=recipe, encoder=encoder, optimizer=make_optimizer(encoder, recipe))


def _init(recipe: Recipe) -> nn.Module | None:
    """The trunk with the weights that the recipe names; None for random ones. BadRun: of another architecture."""
    if recipe.init == "random":
        return None
    trunk = create_model(recipe.init)
    arch = str((getattr(trunk, "pretrained_cfg", None) or {}).get("architecture") or "")
    if arch != recipe.arch.split(".")[0]:
        raise BadRun(
            f"--init {recipe.init} holds a {arch or 'model of unknown architecture'}, and the run trains a {recipe.arch}"
        )
    return trunk


def _carried(make: Callable[[], Made]) -> Made:
    try:
        return make()
    except (UnknownName, BadSpec, BadRun):
        raise
    except InslocError as error:
        raise BadRun(str(error)) from None
