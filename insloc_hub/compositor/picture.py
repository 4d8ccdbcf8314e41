"""A grid of composites with their boxes, for eyes: see what you train on before you train on it."""

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from insloc_hub.compositor.views import View, to_input
from insloc_hub.data.transform import LEVELS

TRUE_BOX = (255, 210, 0)
DRAWN_BOX = (0, 230, 255)
GAP = 4


def picture_of_views(query: View, key: View, augmented: Tensor, most: int = 8) -> Image.Image:
    """One column per instance: query above, key below. Yellow: the pasted crop; cyan: the query's augmented box [b 4]."""
    columns = min(most, len(query.composites))
    side = query.composites.shape[-1]
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, 2 * (side + GAP) + GAP), (255, 255, 255))
    for row, view in enumerate((query, key)):
        levels = to_input(view, LEVELS)
        for column in range(columns):
            tile = _tile(levels[column])
            draw = ImageDraw.Draw(tile)
            _frame(draw, view.boxes[column].tolist(), TRUE_BOX, side)
            if row == 0:
                _frame(draw, augmented[column].tolist(), DRAWN_BOX, side)
            sheet.paste(tile, (GAP + column * (side + GAP), GAP + row * (side + GAP)))
    return sheet


def _tile(image: Tensor) -> Image.Image:
    pixels = image.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)


def _frame(draw: ImageDraw.ImageDraw, box: list[float], colour: tuple[int, int, int], side: int) -> None:
    # Edge coordinates: the last pixel inside is x2 - 1. Parts outside the canvas are shown at its border.
    x1, y1 = (max(0, round(v)) for v in box[:2])
    x2, y2 = (min(side, round(v)) - 1 for v in box[2:])
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=max(1, side // 96))
