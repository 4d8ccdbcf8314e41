"""Two composites per instance, with the box of the pasted crop: what a training step is fed (paper.md A.1)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from insloc_hub.compositor.colour import COLOUR_UNIFORMS, apply_colour, draw_colour
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


def make_view(
    pixels: Callable[[int], UInt8[Tensor, "3 _ _"]], total: int, indices: list[int], epoch: int, recipe: Recipe, which: int
) -> View:
    """The query (0) or key (1) view of each index. `pixels` gives an image of the `total` by its index."""
    order = np.asarray(indices, dtype=np.int64)
    foregrounds = [pixels(index) for index in indices]
    sizes = np.array([[image.shape[2], image.shape[1]] for image in foregrounds], dtype=np.int64)
    numbers = uniforms(recipe.seed, epoch, order, GEOMETRY_STREAM[which], VIEW_UNIFORMS)
    layout = draw_layout(sizes, total, recipe.canvas, recipe.foreground_bounds, numbers)
    composites = paste([pixels(index) for index in layout.background.tolist()], foregrounds, layout)
    numbers = uniforms(recipe.seed, epoch, order, COLOUR_STREAM[which], COLOUR_UNIFORMS)
    coloured = apply_colour(composites, draw_colour(numbers, recipe.blur_sigma))
    return View(images=flip(coloured, layout), boxes=torch.from_numpy(layout.final_boxes()).to(coloured.device))


def flip(images: Float[Tensor, "b 3 s s"], layout: Layout) -> Float[Tensor, "b 3 s s"]:
    """Mirror the composites that the layout says; their boxes are `layout.final_boxes()`."""
    chosen = torch.from_numpy(layout.flip).to(images.device)[:, None, None, None]
    return torch.where(chosen, images.flip(3), images)


def to_input(view: View, facts: InputFacts) -> Float[Tensor, "b 3 s s"]:
    """Network input of a view."""
    return normalise(view.images, facts)
