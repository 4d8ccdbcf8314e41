"""Outlines of the world's objects: signed distances to twelve shapes.

A distance is in units of the object's radius, negative inside. Everything an object shows follows from it: its mask,
its smooth edge, its bevel and its shadow. Shapes fit into the unit circle; u points right, v down.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from insloc_hub.shapes import Float

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def circle(
    u: Float[np.ndarray, "h w"], v: Float[np.ndarray, "h w"], at: tuple[float, float] = (0.0, 0.0), radius: float = 1.0
) -> Float[np.ndarray, "h w"]:
    """Distance to the edge of a disc.

    >>> circle(np.array([[0.0, 3.0]]), np.array([[0.0, 4.0]]), radius=2.0).tolist()
    [[-2.0, 3.0]]
    """
    return np.hypot(u - at[0], v - at[1]) - radius


def polygon(
    u: Float[np.ndarray, "h w"], v: Float[np.ndarray, "h w"], points: Sequence[tuple[float, float]]
) -> Float[np.ndarray, "h w"]:
    """Distance to a simple polygon: the nearest of its edges, negative where a ray crosses them an odd number of times.

    >>> polygon(np.array([[0.0, 4.0]]), np.array([[0.5, 0.0]]), [(-1, -1), (1, -1), (1, 1), (-1, 1)]).tolist()
    [[-0.5, 3.0]]
    """
    nearest = np.full_like(u, np.inf)
    inside = np.zeros(u.shape, bool)
    for (u0, v0), (u1, v1) in zip(points, [*points[1:], points[0]], strict=True):
        du, dv = u1 - u0, v1 - v0
        along = np.clip(((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv), 0, 1)
        nearest = np.minimum(nearest, (u - u0 - along * du) ** 2 + (v - v0 - along * dv) ** 2)
        if dv:
            inside ^= ((v0 > v) != (v1 > v)) & (u < u0 + (v - v0) * (du / dv))
    distance = np.sqrt(nearest)
    return np.asarray(np.where(inside, -distance, distance))


def regular(corners: int, inner: float | None = None) -> list[tuple[float, float]]:
    """Corners of a regular polygon on the unit circle, or of a star whose notches lie at radius `inner`."""
    count = corners if inner is None else 2 * corners
    radii = [inner if inner is not None and i % 2 else 1.0 for i in range(count)]
    turns = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    return [(radius * math.cos(turn), radius * math.sin(turn)) for radius, turn in zip(radii, turns, strict=True)]


def rounded(points: Sequence[tuple[float, float]], by: float = 0.05) -> Outline:
    """The outline of a polygon whose corners are rounded with radius `by`."""
    # A line at distance `by` from the polygon has round corners; shrunk first, it stays inside the unit circle.
    small = [(u * (1 - by), v * (1 - by)) for u, v in points]
    return lambda u, v: polygon(u, v, small) - np.float32(by)


def crescent(u: Float[np.ndarray, "h w"], v: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """A disc without another disc."""
    return np.asarray(np.maximum(circle(u, v), -circle(u, v, at=(0.52, -0.12), radius=0.78)))


def ring(u: Float[np.ndarray, "h w"], v: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """An annulus; its hole shows the background and is outside."""
    return np.asarray(np.maximum(circle(u, v), -circle(u, v, radius=0.5)))


def flower(u: Float[np.ndarray, "h w"], v: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Five round petals around a heart: a union of discs."""
    petals = [circle(u, v, at=(0.62 * x, 0.62 * y), radius=0.38) for x, y in regular(5)]
    return np.asarray(np.minimum.reduce([circle(u, v, radius=0.45), *petals]))


ARROW = [(-0.95, -0.25), (0.05, -0.25), (0.05, -0.72), (1.0, 0.0), (0.05, 0.72), (0.05, 0.25), (-0.95, 0.25)]
BOLT = [(-0.1, -0.98), (0.62, -0.78), (0.2, -0.22), (0.62, -0.12), (-0.35, 0.95), (-0.08, 0.15), (-0.6, 0.05)]
CROSS = [
    *[(-0.33, -0.94), (0.33, -0.94), (0.33, -0.33), (0.94, -0.33), (0.94, 0.33), (0.33, 0.33)],
    *[(0.33, 0.94), (-0.33, 0.94), (-0.33, 0.33), (-0.94, 0.33), (-0.94, -0.33), (-0.33, -0.33)],
]
ELL = [(-0.57, -0.82), (-0.02, -0.82), (-0.02, 0.22), (0.68, 0.22), (0.68, 0.72), (-0.57, 0.72)]

OUTLINES: dict[str, Outline] = {
    "arrow": rounded(ARROW),
    "bolt": rounded(BOLT, 0.03),
    "crescent": crescent,
    "cross": rounded(CROSS),
    "disc": circle,
    "ell": rounded(ELL),
    "flower": flower,
    "hexagon": rounded(regular(6)),
    "ring": ring,
    "square": rounded(regular(4), 0.08),
    "star": rounded(regular(5, 0.45)),
    "triangle": rounded(regular(3), 0.08),
}
