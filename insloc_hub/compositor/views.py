"""Two views per instance, with the box of the pasted crop: what a training step is fed (paper.md A.1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from insloc_hub.compositor.colour import COLOUR_UNIFORMS, apply_colour, draw_colour
from insloc_hub.compositor.crops import CROPPED_UNIFORMS, cut, draw_crops
from insloc_hub.compositor.geometry import VIEW_UNIFORMS, Layout, draw_layout, uniforms
from insloc_hub.compositor.paste import paste
from insloc_hub.data.transform import InputFacts, normalise
from insloc_hub.recipe import Recipe
from insloc_hub.shapes import Float, UInt8

QUERY, KEY = 0, 1
# Streams of the generator: geometry and colour of each view are drawn apart, so that changing one leaves the other.
GEOMETRY_STREAM = (0, 1)
COLOUR_STREAM = (2, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One composite of each of b instances."""

    images: Float[Tensor, "b 3 s s"]
    """Pixels in 0..255, before normalisation."""
    boxes: Float[Tensor, "b 4"]
    """XYXY of the pasted crop in pixels of the composite."""


def make_views(
    pixels: Callable[[int], UInt8[Tensor, "3 _ _"]], total: int, indices: list[int], epoch: int, recipe: Recipe
) -> tuple[View, View]:
    """The query and the key view of each index. `pixels` gives an image of the `total` by its index.

    They are composites or, for the control, plain crops, as `recipe.views` says.
    """
    foregrounds = [pixels(index) for index in indices]  # once: both views are cut from the same pixels
    query, key = (_view(foregrounds, pixels, total, indices, epoch, recipe, which) for which in (QUERY, KEY))
    return query, key


def make_view(
    pixels: Callable[[int], UInt8[Tensor, "3 _ _"]], total: int, indices: list[int], epoch: int, recipe: Recipe, which: int
) -> View:
    """The query (0) or key (1) view of each index, as in `make_views`."""
    return _view([pixels(index) for index in indices], pixels, total, indices, epoch, recipe, which)


def _view(
    foregrounds: Sequence[UInt8[Tensor, "3 _ _"]],
    pixels: Callable[[int], UInt8[Tensor, "3 _ _"]],
    total: int,
    indices: list[int],
    epoch: int,
    recipe: Recipe,
    which: int,
) -> View:
    order = np.asarray(indices, dtype=np.int64)
    sizes = np.array([[image.shape[2], image.shape[1]] for image in foregrounds], dtype=np.int64).reshape(-1, 2)
    colour = draw_colour(uniforms(recipe.seed, epoch, order, COLOUR_STREAM[which], COLOUR_UNIFORMS), recipe.blur_sigma)
    if recipe.views == "crops":
        numbers = uniforms(recipe.seed, epoch, order, GEOMETRY_STREAM[which], CROPPED_UNIFORMS)
        cropped = draw_crops(sizes, recipe.view_side, numbers)
        images = apply_colour(cut(foregrounds, cropped), colour)
        return View(images=images, boxes=torch.from_numpy(cropped.final_boxes()).to(images.device))
    numbers = uniforms(recipe.seed, epoch, order, GEOMETRY_STREAM[which], VIEW_UNIFORMS)
    layout = draw_layout(sizes, total, recipe.canvas, recipe.foreground_bounds, numbers)
    composites = paste([pixels(index) for index in layout.background.tolist()], foregrounds, layout)
    coloured = apply_colour(composites, colour)
    return View(images=flip(coloured, layout), boxes=torch.from_numpy(layout.final_boxes()).to(coloured.device))


def flip(images: Float[Tensor, "b 3 s s"], layout: Layout) -> Float[Tensor, "b 3 s s"]:
    """Mirror the composites that the layout says; their boxes are `layout.final_boxes()`."""
    chosen = torch.from_numpy(layout.flip).to(images.device)[:, None, None, None]
    return torch.where(chosen, images.flip(3), images)


def to_input(view: View, facts: InputFacts) -> Float[Tensor, "b 3 s s"]:
    """Network input of a view."""
    return normalise(view.images, facts)
