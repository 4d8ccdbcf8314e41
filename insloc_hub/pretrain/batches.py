"""The batch of a step: a function of recipe, data and step alone, so that a resumed run sees what it would have seen."""

import torch

from insloc_hub.compositor.views import QUERY, make_view, make_views
from insloc_hub.data.cache import Pixels
from insloc_hub.data.loader import batch_indices
from insloc_hub.data.transform import InputFacts, normalise
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
    query, key = make_views(pixels.__getitem__, len(pixels), indices, epoch, recipe)
    return Batch(
        query=normalise(query.images, facts).to(device),
        query_boxes=query.boxes.to(device),
        key=normalise(key.images, facts).to(device),
        key_boxes=key.boxes.to(device),
    )


def make_labelled_batch(pixels: Pixels, recipe: Recipe, step: int, device: torch.device) -> LabelledBatch:
    """The query views and classes of this process's share of step `step`."""
    epoch, indices = batch_indices(len(pixels), recipe.batch, recipe.seed, step)
    indices = indices[distributed.mine(recipe.batch)]
    view = make_view(pixels.__getitem__, len(pixels), indices, epoch, recipe, QUERY)
    labels = torch.tensor([pixels.images.samples[index].label for index in indices])
    return LabelledBatch(images=normalise(view.images, facts_of(recipe)).to(device), labels=labels.to(device))
