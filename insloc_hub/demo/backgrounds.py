"""Backgrounds of the world: eight kinds of ground behind the objects, muted so that an object stays visible on them.

A kind gives a field in 0..1; a palette of three related colours, a finer noise and the image's light do the rest.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from insloc_hub.demo.textures import TURN, hsv, ramp, soft_square, value_noise
from insloc_hub.shapes import Float

Ground = Callable[[Generator, int, int], np.ndarray]
"""(generator, h, w) -> field [h w] in 0..1."""


def background(generator: Generator, h: int, w: int) -> Float[np.ndarray, "h w 3"]:
    """A ground of a drawn kind and palette, RGB in 0..1."""
    kind = list(GROUNDS)[int(generator.integers(len(GROUNDS)))]
    field = GROUNDS[kind](generator, h, w)
    field = 0.85 * field + 0.15 * value_noise(generator, h, w, (5.0, 5.0), 2)
    return ramp(field.astype(np.float32), _palette(generator))


def _palette(generator: Generator) -> np.ndarray:
    """Three colours [3 3] from dark to light whose hues are neighbours, now and then opposites."""
    hue, saturation = generator.random(), generator.uniform(0.08, 0.5)
    spread = generator.choice([0.04, 0.1, 0.3, 0.5], p=[0.4, 0.35, 0.15, 0.1]) * generator.choice([-1, 1])
    dark = generator.uniform(0.15, 0.6)
    light = dark + generator.uniform(0.18, 0.4)
    colours = [
        hsv(hue + spread * step, saturation * generator.uniform(0.7, 1.3), dark + (light - dark) * step)
        for step in (0.0, 0.5, 1.0)
    ]
    order = colours if generator.random() < 0.5 else colours[::-1]
    return np.array(order, np.float32)


def _turned(generator: Generator, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in units of the short side, turned by a drawn angle about the middle: two fields [h w]."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    x, y = (x - w / 2) / min(h, w), (y - h / 2) / min(h, w)
    turn = generator.random() * TURN
    return x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)


def _clouds(generator: Generator, h: int, w: int) -> np.ndarray:
    cell = min(h, w) * generator.uniform(0.2, 0.6)
    return value_noise(generator, h, w, (cell, cell), 4)


def _slope(generator: Generator, h: int, w: int) -> np.ndarray:
    x, _ = _turned(generator, h, w)
    return np.clip(0.5 + x * generator.uniform(0.5, 0.9), 0, 1)


def _planks(generator: Generator, h: int, w: int) -> np.ndarray:
    x, y = _turned(generator, h, w)
    pitch = generator.uniform(3, 6)
    plank = np.floor(x * pitch).astype(int)
    tone = generator.random(int(plank.max() - plank.min()) + 1)[plank - plank.min()]
    across = x * pitch - plank
    seam = np.clip(np.minimum(across, 1 - across) * 12, 0, 1)
    grain = np.sin(TURN * (across * 2 + y * 0.4 + tone * 7 + 0.8 * value_noise(generator, h, w, (14.0, 14.0), 2)))
    return np.asarray((0.25 + 0.45 * tone + 0.15 * grain) * (0.55 + 0.45 * seam), np.float32)


def _bands(generator: Generator, h: int, w: int) -> np.ndarray:
    x, y = _turned(generator, h, w)
    bend = value_noise(generator, h, w, (40.0, 40.0)) * generator.uniform(0, 0.8)
    wave = soft_square(x * generator.uniform(2, 6) + bend, generator.uniform(0.4, 1.6))
    return 0.15 + 0.6 * wave + 0.2 * y


def _cells(generator: Generator, h: int, w: int) -> np.ndarray:
    x, y = _turned(generator, h, w)
    pitch = generator.uniform(4, 9)
    x, y = x * pitch + 20, y * pitch + 20
    jitter, tones = generator.random((40, 40, 2)), generator.random((40, 40))
    first = second = np.full((h, w), np.inf)
    tone = np.zeros((h, w))
    # One seed in each square of a lattice: the nearest seed is in the same square or a neighbour, nearly always.
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            i, j = (np.floor(y).astype(int) + row) % 40, (np.floor(x).astype(int) + column) % 40
            seed_y, seed_x = np.floor(y) + row + jitter[i, j, 0], np.floor(x) + column + jitter[i, j, 1]
            distance = np.hypot(seed_y - y, seed_x - x)
            tone = np.where(distance < first, tones[i, j], tone)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    crack = np.clip((second - first) * 6, 0, 1)
    return np.asarray((0.25 + 0.7 * tone) * (0.45 + 0.55 * crack), np.float32)


def _tiles(generator: Generator, h: int, w: int) -> np.ndarray:
    x, y = _turned(generator, h, w)
    pitch = generator.uniform(1.5, 4) * math.pi
    board = np.clip(0.5 + 4 * np.sin(x * pitch) * np.sin(y * pitch), 0, 1)
    return 0.2 + 0.5 * board + 0.25 * value_noise(generator, h, w, (20.0, 20.0), 3)


def _bokeh(generator: Generator, h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w].astype(np.float32)
    field = 0.35 * value_noise(generator, h, w, (50.0, 50.0))
    for _ in range(int(generator.integers(6, 14))):
        at, radius = generator.random(2) * (h, w), min(h, w) * generator.uniform(0.05, 0.22)
        spot = np.clip((radius - np.hypot(y - at[0], x - at[1])) / (radius * 0.15) + 0.5, 0, 1)
        field = field + spot * generator.uniform(0.1, 0.35)
    return np.clip(field, 0, 1)


def _horizon(generator: Generator, h: int, w: int) -> np.ndarray:
    y = np.mgrid[:h, :w][0].astype(np.float32) / h
    ridge = generator.uniform(0.3, 0.7) + 0.2 * (value_noise(generator, h, w, (w / 3, h * 8.0), 4)[:1] - 0.5)
    ground = 0.1 + 0.3 * value_noise(generator, h, w, (18.0, 5.0), 3)
    sky = 0.65 + 0.3 * y + 0.12 * value_noise(generator, h, w, (45.0, 12.0), 3)
    return np.where(y > ridge, ground, np.clip(sky, 0, 1))


GROUNDS: dict[str, Ground] = {
    "bands": _bands,
    "bokeh": _bokeh,
    "cells": _cells,
    "clouds": _clouds,
    "horizon": _horizon,
    "planks": _planks,
    "slope": _slope,
    "tiles": _tiles,
}
