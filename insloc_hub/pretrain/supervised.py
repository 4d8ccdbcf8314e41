"""The reference row with labels: the same trunk, images, views and schedule, cross-entropy instead of a contrast. [ours]"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from insloc_hub.parallel import distributed
from insloc_hub.parallel.groupbn import forward_in_groups
from insloc_hub.pretrain.profile import Lap, no_lap
from insloc_hub.pretrain.state import LabelState, StepFacts
from insloc_hub.pretrain.step import descend
from insloc_hub.shapes import Float, Int


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledBatch:
    """Normalised views, and the class of each image from 0."""

    images: Float[Tensor, "b 3 s s"]
    labels: Int[Tensor, " b"]


def label_step(state: LabelState, batch: LabelledBatch, learning_rate: float, lap: Lap = no_lap) -> StepFacts:
    """Forward in the same groups as the contrast's, mean cross-entropy, backward, update."""
    recipe = state.recipe
    device = batch.images.device
    nowhere = batch.images.new_zeros(len(batch.images), 1, 4)  # boxes, which a classifier does not read
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = forward_in_groups(state.encoder, batch.images, nowhere, recipe.bn_groups // distributed.world())
    lap("forward")
    loss = nn.functional.cross_entropy(logits.float(), batch.labels)
    lap("loss")
    descend(state.encoder, state.optimizer, loss, learning_rate)
    lap("backward + update")
    state.step += 1
    accuracy = (logits.argmax(dim=1) == batch.labels).float().mean(dim=0, keepdim=True)
    return StepFacts(loss=distributed.mean(loss), accuracy=distributed.mean(accuracy))
