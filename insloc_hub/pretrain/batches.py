"""The batch of a step: a function of recipe, data and step alone, so that a resumed run sees what it would have seen."""

import numpy as np
import numpy.typing as npt
import torch

from insloc_hub.compositor.views import QUERY, make_view, make_views, to_input
from insloc_hub.data.cache import Pixels
from insloc_hub.data.loader import batch_indices, recent_indices
from insloc_hub.data.transform import InputFacts
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.step import Batch
from insloc_hub.pretrain.supervised import LabelledBatch
from insloc_hub.recipe import Recipe


def facts_of(recipe: Recipe) -> InputFacts:
    """The input convention that a run trains with."""
    return InputFacts(size=(recipe.canvas, recipe.canvas), mean=recipe.pixel_mean, std=recipe.pixel_std)


def make_batch(pixels: Pixels, recipe: Recipe, step: int, device: torch.device) -> Batch:
    """Both views of this process's share of optimizer step `step`."""
    epoch, indices = batch_indices(len(pixels), recipe.batch, recipe.seed, step)
    indices = indices[distributed.mine(recipe.batch)]
    facts = facts_of(recipe)
    query, key = make_views(pixels, backgrounds(pixels, recipe, step), indices, epoch, recipe)
    return Batch(
        query=to_input(query, facts, device),
        query_boxes=query.boxes.to(device),
        key=to_input(key, facts, device),
        key_boxes=key.boxes.to(device),
    )


def make_labelled_batch(pixels: Pixels, recipe: Recipe, step: int, device: torch.device) -> LabelledBatch:
    """The query views and classes of this process's share of step `step`."""
    epoch, indices = batch_indices(len(pixels), recipe.batch, recipe.seed, step)
    indices = indices[distributed.mine(recipe.batch)]
    view = make_view(pixels, backgrounds(pixels, recipe, step), indices, epoch, recipe, QUERY)
    labels = torch.tensor([pixels.images.samples[index].label for index in indices])
    return LabelledBatch(images=to_input(view, facts_of(recipe), device), labels=labels.to(device))


def backgrounds(pixels: Pixels, recipe: Recipe, step: int) -> int | npt.NDArray[np.int64]:
    """What step `step` may paste on: the number of images of the set or, in a stream, the indices of those seen last."""
    if pixels.pool is None:
        return len(pixels)
    return recent_indices(len(pixels), recipe.batch, recipe.seed, step, pixels.pool, distributed.mine(recipe.batch))
