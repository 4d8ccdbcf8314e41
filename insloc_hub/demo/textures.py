"""Textures of the world: fields of numbers in 0..1 that a palette turns into colours.

Objects take theirs in object coordinates (u right, v down, the outline inside the unit circle), so that the pattern
turns and grows with the object. Backgrounds take theirs in pixels. Every choice comes from the generator that is given.
"""

import colorsys
import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image

from insloc_hub.shapes import Float

TURN = 2 * math.pi


def value_noise(
    generator: Generator, h: int, w: int, cell_wh: tuple[float, float], octaves: int = 1
) -> Float[np.ndarray, "h w"]:
    """Smooth noise in 0..1 with features about `cell_wh` pixels wide, each octave half as wide and half as strong."""
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        wide, high = (max(cell / 2**octave, 1.0) for cell in cell_wh)
        cols, rows = w / wide, h / high
        grid = generator.random((math.ceil(rows) + 3, math.ceil(cols) + 3), dtype=np.float32)
        left, top = 1 + generator.random(2)  # one cell of margin: cubic interpolation looks two cells far
        box = (left, top, left + cols, top + rows)
        # A named mode would be redundant: a float32 array is Pillow's mode F.
        layer = Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC, box=box)
        total += np.asarray(layer, np.float32) / np.float32(2**octave)
    low, high_value = float(total.min()), float(total.max())
    return (total - np.float32(low)) / np.float32(max(high_value - low, 1e-6))


def soft_square(phase: Float[np.ndarray, "h w"], hardness: float = 2.5) -> Float[np.ndarray, "h w"]:
    """A square wave of period 1 in 0..1 whose flanks are soft, so that it does not alias."""
    return np.asarray(np.clip(0.5 + np.float32(hardness) * np.sin(np.float32(TURN) * phase), 0, 1), np.float32)


def ramp(field: Float[np.ndarray, "h w"], colours: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "h w 3"]:
    """Colours for a field in 0..1: the given ones evenly spaced, linear between."""
    steps = np.linspace(0, 1, 256)
    stops = np.linspace(0, 1, len(colours))
    table = np.stack([np.interp(steps, stops, colours[:, c]) for c in range(3)], 1).astype(np.float32)
    return np.asarray(table[np.clip(field * 255, 0, 255).astype(np.uint8)])


def hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """An RGB colour in 0..1; the hue is in turns and wraps, the others are clipped."""
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


Texture = Callable[[Generator, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(generator, u [h w], v [h w], noise [h w] in 0..1) -> field [h w] in 0..1."""


def _stripes(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return soft_square(v * generator.uniform(1.6, 2.6) + noise * 0.15 + generator.random())


def _chevrons(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return soft_square((u + np.abs(v) * generator.uniform(0.7, 1.2)) * generator.uniform(1.8, 2.6) + generator.random())


def _checks(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    pitch, shift = generator.uniform(1.2, 2.0) * TURN, generator.random(2) * TURN
    return np.asarray(np.clip(0.5 + 3 * np.sin(u * pitch + shift[0]) * np.sin(v * pitch + shift[1]), 0, 1), np.float32)


def _honeycomb(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    pitch = generator.uniform(2.0, 2.9) * TURN
    # Three plane waves 120 degrees apart have their maxima on a hexagonal lattice.
    waves = [np.cos(pitch * (u * math.cos(turn) + v * math.sin(turn))) for turn in (0, TURN / 3, 2 * TURN / 3)]
    return np.clip(0.35 + 0.75 * (waves[0] + waves[1] + waves[2]), 0, 1)


def _rays(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    turns = np.arctan2(v, u) / TURN
    return soft_square(turns * int(generator.integers(3, 6)) + generator.random(), 4.0)


def _spiral(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    turns = np.arctan2(v, u) / TURN
    twist = generator.uniform(0.5, 1.1) * generator.choice([-1, 1])
    return soft_square(turns * int(generator.integers(6, 10)) + np.hypot(u, v) * twist * 2, 3.0)


def _rings(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return soft_square(np.hypot(u, v) * generator.uniform(1.8, 2.8) + generator.random(), 3.0)


def _bricks(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    row = v * generator.uniform(2.0, 2.8) + generator.random()
    column = row.dtype.type(generator.uniform(1.0, 1.5)) * u + 0.5 * (np.floor(row) % 2)
    # Distance to the nearest joint, the horizontal ones about as wide as the vertical ones.
    joint = np.minimum(np.abs(row - np.round(row)), 2 * np.abs(column - np.round(column)))
    return np.asarray(np.clip(joint * 9 - 0.6, 0, 1) * (0.75 + 0.25 * noise), np.float32)


def _plaid(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    pitch = generator.uniform(1.2, 1.8)
    wide = soft_square(u * pitch + generator.random()) + soft_square(v * pitch + generator.random())
    thin = np.maximum(np.cos(u * pitch * 2 * TURN), np.cos(v * pitch * 2 * TURN)) > 0.9
    return np.asarray(np.clip(0.45 * wide + 0.3 * thin, 0, 1), np.float32)


def _speckle(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return np.clip((noise - generator.uniform(0.45, 0.6)) * 9 + 0.5, 0, 1)


def _marble(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    veins = np.abs(np.sin(TURN * (u * generator.uniform(0.3, 0.7) + noise * generator.uniform(1.0, 1.8))))
    return np.sqrt(veins)


def _grain(generator: Generator, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    bent = np.hypot(u * 0.35 + 0.3, v + generator.uniform(-0.5, 0.5))
    return 0.5 + 0.5 * np.sin(TURN * (bent * generator.uniform(3.0, 4.5) + noise * 0.6))


TEXTURES: dict[str, Texture] = {
    "bricks": _bricks,
    "checks": _checks,
    "chevrons": _chevrons,
    "grain": _grain,
    "honeycomb": _honeycomb,
    "marble": _marble,
    "plaid": _plaid,
    "rays": _rays,
    "rings": _rings,
    "speckle": _speckle,
    "spiral": _spiral,
    "stripes": _stripes,
}
