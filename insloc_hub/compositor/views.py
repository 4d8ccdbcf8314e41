"""Two views per instance, with the box of the pasted crop: what a training step is fed (paper.md A.1).

All random numbers of a sample, for both views, come from one stream keyed by (seed, epoch, index): a view depends on
nothing else, in a stream also on the images seen before it. Pixels stay 8 bit until `to_input`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from insloc_hub.compositor.colour import COLOUR_UNIFORMS, Colour, apply_colour, draw_colour
from insloc_hub.compositor.crops import CROPPED_UNIFORMS, CropLayout, cut, draw_crops
from insloc_hub.compositor.geometry import VIEW_UNIFORMS, Floats, Ints, Layout, draw_layout, uniforms
from insloc_hub.compositor.paste import mirror, paste
from insloc_hub.data.cache import Pixels
from insloc_hub.data.transform import InputFacts
from insloc_hub.recipe import Recipe
from insloc_hub.shapes import Float, UInt8

QUERY, KEY = 0, 1
STREAM = 0
# Geometry and colour have columns of their own, so that changing one leaves the other; crops take fewer than composites.
PER_VIEW = VIEW_UNIFORMS + COLOUR_UNIFORMS


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One view of each of b instances, before its colour."""

    composites: UInt8[Tensor, "b 3 s s"]
    """Pasted and mirrored, on the device of the data set."""
    colour: Colour
    """What `to_input` does to them."""
    boxes: Float[Tensor, "b 4"]
    """XYXY of the instance in pixels of the view."""


def make_views(pixels: Pixels, backgrounds: int | Ints, indices: list[int], epoch: int, recipe: Recipe) -> tuple[View, View]:
    """The query and the key view of each of `indices`: composites or, for the control, crops, as `recipe.views` says.

    `backgrounds` is what may be pasted on: the number of images of the set, or the indices of a pool.
    """
    foregrounds = pixels.many(indices)  # once: both views are cut from the same pixels
    query, key = (_view(foregrounds, numbers, pixels, backgrounds, recipe) for numbers in draw_numbers(recipe, epoch, indices))
    return query, key


def make_view(pixels: Pixels, backgrounds: int | Ints, indices: list[int], epoch: int, recipe: Recipe, which: int) -> View:
    """The query (0) or key (1) view alone."""
    return _view(pixels.many(indices), draw_numbers(recipe, epoch, indices)[which], pixels, backgrounds, recipe)


def draw_numbers(recipe: Recipe, epoch: int, indices: list[int]) -> tuple[Floats, Floats]:
    """Uniforms [b PER_VIEW] of the query and of the key view: those of the geometry, then those of the colour."""
    numbers = uniforms(recipe.seed, epoch, np.asarray(indices, dtype=np.int64), STREAM, 2 * PER_VIEW)
    return numbers[:, :PER_VIEW], numbers[:, PER_VIEW:]


def to_input(view: View, facts: InputFacts, device: torch.device | None = None) -> Float[Tensor, "b 3 s s"]:
    """Network input of a view: coloured and normalised, on `device` or where it is."""
    composites = view.composites if device is None else view.composites.to(device)
    return apply_colour(composites, view.colour, facts)


def _view(foregrounds: list[Tensor], numbers: Floats, pixels: Pixels, backgrounds: int | Ints, recipe: Recipe) -> View:
    sizes = np.array([[image.shape[2], image.shape[1]] for image in foregrounds], dtype=np.int64).reshape(-1, 2)
    layout: Layout | CropLayout
    if recipe.views == "crops":
        layout = draw_crops(sizes, recipe.view_side, numbers[:, :CROPPED_UNIFORMS])
        composites = cut(foregrounds, layout)
    else:
        total = backgrounds if isinstance(backgrounds, int) else len(backgrounds)
        layout = draw_layout(sizes, total, recipe.canvas, recipe.foreground_bounds, numbers[:, :VIEW_UNIFORMS])
        under = layout.background if isinstance(backgrounds, int) else backgrounds[layout.background]
        composites = paste(pixels.backgrounds(under.tolist(), recipe.canvas), foregrounds, layout)
    mirror(composites, layout.flip)
    boxes = torch.from_numpy(layout.final_boxes()).to(composites.device)
    return View(composites=composites, colour=draw_colour(numbers[:, VIEW_UNIFORMS:], recipe.blur_sigma), boxes=boxes)
