"""The demo's pictures: loss curve, similarity maps; as strings that stand inside one HTML file."""

import base64
import io
import math
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from insloc_hub.shapes import Float, UInt8

INK, FAINT, BLUE, ORANGE = "#22303c", "#9aa7b2", "#2563a8", "#d97706"
SMOOTH = 15  # steps of the running mean in the loss curve
SHOW_PX = 192  # side of a picture in the similarity sheet
GAP = 6


def loss_curve(lines: list[dict[str, Any]], queue: int) -> str:
    """SVG of loss and accuracy over steps, with the plateau ln(K + 1) of a network that recognises nothing."""
    steps = np.array([line["step"] for line in lines])
    loss = np.array([line["loss"] for line in lines])
    accuracy = 100 * np.array([line["accuracy"][0] for line in lines])
    with matplotlib.rc_context({"svg.hashsalt": "insloc", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axis, values, colour, title in (
            (left, loss, BLUE, "InfoNCE loss (nats)"),
            (right, accuracy, ORANGE, "instance recognised (% of queries)"),
        ):
            axis.plot(steps, values, color=FAINT, linewidth=0.6)
            axis.plot(steps, running_mean(values, SMOOTH), color=colour, linewidth=1.8)
            axis.set_title(title, fontsize=10, color=INK, loc="left")
            axis.set_xlabel("step", fontsize=9, color=INK)
            axis.spines[["top", "right"]].set_visible(False)
        left.axhline(math.log(queue + 1), color=INK, linewidth=0.8, linestyle="--")
        left.annotate("ln(K+1)", (steps[-1], math.log(queue + 1)), fontsize=8, color=INK, va="top", ha="right")
        right.set_ylim(0, 100)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def running_mean(values: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " n"]:
    """Mean of the last `width` values at each place, of fewer at the beginning.

    >>> running_mean(np.array([0.0, 2.0, 4.0]), 2).tolist()
    [0.0, 1.0, 3.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - width)
    means: Float[np.ndarray, " n"] = (sums[end] - sums[start]) / (end - start)
    return means


def similarity(region: Float[Tensor, " c"], map_: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    """Cosine of a region's vector with every cell of a map, -1 to 1, after the map's mean vector is taken from both.

    Features after a ReLU share a large common part, which would make every cosine about 1.
    """
    mean = map_.mean(dim=(1, 2))
    cells = torch.nn.functional.normalize(map_ - mean[:, None, None], dim=0)
    return torch.einsum("c,chw->hw", torch.nn.functional.normalize(region - mean, dim=0), cells)


def heat_row(image: UInt8[Tensor, "3 h w"], box: list[float], heats: list[Float[Tensor, "_ _"]]) -> Image.Image:
    """The image with its query box, then one overlay per heat map; all squares of the same size."""
    side = SHOW_PX
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BILINEAR)
    row = Image.new("RGB", ((len(heats) + 1) * (side + GAP) - GAP, side), (255, 255, 255))
    framed = picture.copy()
    sx, sy = side / image.shape[2], side / image.shape[1]
    corners = (box[0] * sx, box[1] * sy, box[2] * sx - 1, box[3] * sy - 1)
    ImageDraw.Draw(framed).rectangle(corners, outline=(255, 210, 0), width=3)
    row.paste(framed, (0, 0))
    grey = picture.convert("L").convert("RGB")
    for number, heat in enumerate(heats, start=1):
        colours = matplotlib.colormaps["inferno"]((heat.clamp(-0.2, 1).numpy() + 0.2) / 1.2)[:, :, :3]
        overlay = Image.fromarray((255 * colours).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        row.paste(Image.blend(grey, overlay, 0.65), (number * (side + GAP), 0))
    return row


def png_uri(image: Image.Image) -> str:
    """A data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
