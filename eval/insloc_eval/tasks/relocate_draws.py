"""The draws and the geometry of patches/relocate: pure numbers, no pixels (paper.md D.1).

Everything about one image's patch and view is a function of (seed, key): not of the order, the batch or the machine.
Boxes are XYXY in pixels of the S x S input.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from insloc_eval.protocols import Relocate
from insloc_eval.tasks.candidates import CandidateGrid, overlaps
from insloc_hub.shapes import Float

CONSTANT_DRAWS = 2000  # patches that choose the constant box; its Acc@.5 is then known to about 0.005
UNIFORMS = 19  # 2 bounds, aspect, 2 of the place, 4 edges, rescale, flip, 4 jitter, 4 order


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A patch of one image and an independent view of it."""

    box: tuple[int, int, int, int]
    """The patch: what is to be found."""
    view: tuple[int, int, int, int]
    """The view's own box."""
    view_wh: tuple[int, int]
    """Its size after rescaling."""
    flip: bool
    jitter: tuple[float, float, float, float]
    """Factors of brightness, contrast and saturation (1 changes nothing), shift of hue (0 changes nothing)."""
    order: tuple[int, int, int, int]
    """In which the four are applied."""


def draw_patch(protocol: Relocate, size_px: int, seed: int, key: str) -> Patch:
    """The patch and the view of the image `key`."""
    u = uniforms(seed, key, UNIFORMS)
    low, high = (round(share * size_px) for share in protocol.side)
    bounds = [low + math.floor(number * (high - low)) for number in u[:2]]
    log_low, log_high = (math.log(value) for value in protocol.aspect)
    w, h = keep_aspect(math.exp(log_low + u[2] * (log_high - log_low)), bounds)
    x, y = (math.floor(number * (size_px - side + 1)) for number, side in ((u[3], w), (u[4], h)))
    box = (x, y, x + w, y + h)
    view = _moved(box, u[5:9], protocol.edge, size_px)
    factor = protocol.rescale[0] + u[9] * (protocol.rescale[1] - protocol.rescale[0])
    shifts = [(2 * number - 1) * reach for number, reach in zip(u[11:15], protocol.jitter, strict=True)]
    first, second, third, fourth = sorted(range(4), key=lambda i: u[15 + i])
    return Patch(
        box=box,
        view=view,
        view_wh=(max(1, round((view[2] - view[0]) * factor)), max(1, round((view[3] - view[1]) * factor))),
        flip=u[10] < protocol.flip,
        jitter=(1 + shifts[0], 1 + shifts[1], 1 + shifts[2], shifts[3]),
        order=(first, second, third, fourth),
    )


def uniforms(seed: int, key: str, n: int) -> list[float]:
    """`n` numbers in [0, 1) from (seed, key): Philox's raw stream, the part that numpy never changes, as 53-bit fractions."""
    code = hashlib.sha256(f"{seed}/{key}".encode()).digest()[:16]
    raw = np.random.Philox(key=int.from_bytes(code, "little")).random_raw(n)
    return [float(word) for word in (raw >> np.uint64(11)) * 2.0**-53]


def keep_aspect(aspect: float, bounds: list[int]) -> tuple[int, int]:
    """Width and height of aspect w / h: the long side meets the larger bound or the short side the smaller (A.1.1).

    >>> keep_aspect(2.0, [40, 60])
    (60, 30)
    >>> keep_aspect(1.0, [40, 60])
    (40, 40)
    """
    w, h = math.sqrt(aspect), math.sqrt(1 / aspect)
    scale = min(max(bounds) / max(w, h), min(bounds) / min(w, h))
    return int(w * scale + 0.5), int(h * scale + 0.5)


def candidate_boxes(protocol: Relocate, size_px: int) -> Float[np.ndarray, "n 4"]:
    """All candidates, clipped to the image. Order: row slowest, then column, ratio, scale."""
    sides = size_px * protocol.side[0] * 2.0 ** (np.arange(protocol.scales) / protocol.per_octave)
    grid = CandidateGrid(size_px=size_px, centres=protocol.centres, ratios=protocol.ratios, sides=tuple(sides.tolist()))
    return grid.boxes()


def reference_rows(protocol: Relocate, size_px: int, ious: Float[np.ndarray, "n k"]) -> dict[str, dict[str, float]]:
    """What needs no network, from the IoU of each image's patch with each candidate.

    The constant box is `constant_box`; the random candidate is its exact expectation; the oracle takes each patch's best.
    """
    hits, constant, tops = ious >= protocol.hit_iou, constant_box(protocol, size_px), ious.max(axis=1)
    return {
        "constant box": {"acc50": float(hits[:, constant].mean()), "miou": float(ious[:, constant].mean())},
        "random candidate": {"acc50": float(hits.mean()), "miou": float(ious.mean())},
        "oracle": {"acc50": float((tops >= protocol.hit_iou).mean()), "miou": float(tops.mean())},
    }


@lru_cache(maxsize=8)
def constant_box(protocol: Relocate, size_px: int) -> int:
    """Index of the candidate that is best without looking: most hits, then largest mean IoU, on patches of its own.

    Not on the tested ones: the best of thousands of candidates for a few hundred given patches would look twice as good
    as it is.
    """
    boxes = candidate_boxes(protocol, size_px)
    hits, total = np.zeros(len(boxes)), np.zeros(len(boxes))
    for number in range(CONSTANT_DRAWS):
        patch = draw_patch(protocol, size_px, 0, f"constant box/{number}")
        ious = overlaps(np.array(patch.box, np.float64), boxes)
        hits += ious >= protocol.hit_iou
        total += ious
    return int(np.lexsort((-total, -hits))[0])


def _moved(box: tuple[int, int, int, int], u: list[float], edge: float, size_px: int) -> tuple[int, int, int, int]:
    """Every edge moved by up to `edge` of its side, in whole pixels, clipped to the image."""
    w, h = box[2] - box[0], box[3] - box[1]
    reach = (w, h, w, h)
    x1, y1, x2, y2 = (
        min(size_px, max(0, round(at + (2 * number - 1) * edge * side))) for at, number, side in zip(box, u, reach, strict=True)
    )
    return x1, y1, x2, y2
