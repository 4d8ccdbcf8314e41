"""Where everything goes in a composite: crops, sizes, places, flips. No pixels (paper.md A.1.1-A.1.3, A.1.5).

All random numbers of a sample come from a counter-based generator keyed by (seed, epoch, index), so a view depends on
nothing else: not on the batch, the order or the number of workers. A batch is drawn at once; uniforms [b n] in, integer
pixels out, so that a test can script them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insloc_hub import paper

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CROP_UNIFORMS = 2 * paper.CROP_TRIES + 2  # an area and an aspect per try, then a row and a column
VIEW_UNIFORMS = 1 + CROP_UNIFORMS + 2 + 2 + 1  # background, crop, two bounds, place, flip


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One view of each of b samples, in whole pixels."""

    background: Ints
    """[b] index of the image that is pasted on."""
    crop: Ints
    """[b 4] XYXY in the foreground image."""
    box: Ints
    """[b 4] XYXY on the canvas, before the flip."""
    flip: npt.NDArray[np.bool_]
    """[b] mirror the finished composite."""
    canvas: int

    def final_boxes(self) -> npt.NDArray[np.float32]:
        """[b 4] XYXY on the canvas after the flip: what the network is told."""
        mirrored = self.box.copy()
        mirrored[:, [0, 2]] = self.canvas - self.box[:, [2, 0]]
        return np.where(self.flip[:, None], mirrored, self.box).astype(np.float32)


def uniforms(seed: int, epoch: int, indices: Ints, stream: int, n: int) -> Floats:
    """[b n] numbers in [0, 1) that are a function of (seed, stream, epoch, index) alone.

    Philox, counter-based; numpy guarantees its raw stream between releases, so the bits are turned into floats by hand.

    >>> a = uniforms(0, 1, np.array([7, 8]), 2, 3)
    >>> bool((a[1] == uniforms(0, 1, np.array([8]), 2, 3)[0]).all())
    True
    """
    raw = [np.random.Philox(key=[seed, stream], counter=[0, index, epoch, 0]).random_raw(n) for index in indices.tolist()]
    bits = np.asarray(raw, dtype=np.uint64).reshape(len(indices), n) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def draw_layout(sizes_wh: Ints, images: int, canvas: int, bounds: tuple[int, int], numbers: Floats) -> Layout:
    """One view of each sample. `sizes_wh` [b 2] of the foregrounds, `images` in the data set, `numbers` [b VIEW_UNIFORMS].

    The background is uniform over the whole set: it may be the foreground's own image (paper.md A.1.2).
    """
    background, crop_u, bounds_u, place_u, flip_u = np.split(numbers, np.cumsum([1, CROP_UNIFORMS, 2, 2]).tolist(), axis=1)
    crop = draw_crop(sizes_wh, crop_u, paper.CROP_AREA, paper.CROP_ASPECT)
    low, high = bounds
    drawn = low + np.floor(bounds_u * (high - low + 1)).astype(np.int64)
    wh = rescale(crop[:, 2:] - crop[:, :2], drawn)
    # Exclusive upper bound, as released: a crop never touches the right or lower edge (A.1.3).
    corner = np.floor(place_u[:, ::-1] * (canvas - wh)).astype(np.int64)  # the row is drawn first
    return Layout(
        background=np.floor(background[:, 0] * images).astype(np.int64),
        crop=crop,
        box=np.concatenate([corner, corner + wh], axis=1),
        flip=flip_u[:, 0] < paper.FLIP_PROBABILITY,
        canvas=canvas,
    )


def draw_crop(sizes_wh: Ints, numbers: Floats, area_range: tuple[float, float], aspect_range: tuple[float, float]) -> Ints:
    """[b 4] XYXY crops: the first of ten tries that fits, else the central fallback (A.1.1).

    Areas are shares of the image, uniform; aspects are width / height, log-uniform. `numbers` [b 22]: per try one for the
    area and one for the log aspect; the pair after the accepted try gives row and column. An integer in 0..n is
    floor(u (n + 1)).
    """
    tries = numbers[:, : 2 * paper.CROP_TRIES].reshape(len(numbers), paper.CROP_TRIES, 2)
    size_w, size_h = sizes_wh[:, 0], sizes_wh[:, 1]
    area = _between(tries[:, :, 0], *area_range) * (size_w * size_h)[:, None]
    aspect = np.exp(_between(tries[:, :, 1], np.log(aspect_range[0]), np.log(aspect_range[1])))
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)  # half to even, as Python's round
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (w > 0) & (h > 0) & (w <= size_w[:, None]) & (h <= size_h[:, None])
    first = fits.argmax(axis=1)
    rows = np.arange(len(numbers))
    row_u, column_u = numbers[rows, 2 * first + 2], numbers[rows, 2 * first + 3]
    w, h = w[rows, first], h[rows, first]
    x = np.floor(column_u * (size_w - w + 1)).astype(np.int64)
    y = np.floor(row_u * (size_h - h + 1)).astype(np.int64)
    return np.where(fits.any(axis=1)[:, None], np.stack([x, y, x + w, y + h], axis=1), central_crop(sizes_wh, aspect_range))


def central_crop(sizes_wh: Ints, aspect_range: tuple[float, float]) -> Ints:
    """[b 4] XYXY: the whole image, cut in its middle where it is longer than allowed (A.1.1, no try accepted)."""
    w, h = sizes_wh[:, 0], sizes_wh[:, 1]
    low, high = aspect_range
    h = np.where(w / h < low, np.rint(w / low).astype(np.int64), h)
    w = np.where(w / h > high, np.rint(h * high).astype(np.int64), w)
    x, y = (sizes_wh[:, 0] - w) // 2, (sizes_wh[:, 1] - h) // 2
    return np.stack([x, y, x + w, y + h], axis=1)


def rescale(crop_wh: Ints, bounds: Ints) -> Ints:
    """[b 2] width and height of the pasted crop, aspect kept (A.1.1).

    `bounds` [b 2] are no sizes: either the long side meets the larger one, or the short side the smaller one.
    """
    scale = np.minimum(bounds.max(axis=1) / crop_wh.max(axis=1), bounds.min(axis=1) / crop_wh.min(axis=1))
    size: Ints = np.floor(crop_wh * scale[:, None] + 0.5).astype(np.int64)
    return size


def _between(numbers: Floats, low: float, high: float) -> Floats:
    return low + numbers * (high - low)
