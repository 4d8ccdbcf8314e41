"""One object of the world: where it lies, what it looks like, and how it gets onto a canvas.

Its class is its outline together with its usual texture. Colours vary widely inside a class around a favourite hue,
and one object in six wears a texture of another class, so that neither colour nor texture alone gives it away.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from insloc_hub.demo.outlines import OUTLINES
from insloc_hub.demo.textures import TEXTURES, TURN, hsv, ramp, value_noise
from insloc_hub.shapes import Bool, Float

LOOKS: dict[str, tuple[str, float]] = {
    "arrow": ("chevrons", 0.02),
    "bolt": ("stripes", 0.15),
    "crescent": ("marble", 0.62),
    "cross": ("checks", 0.98),
    "disc": ("rays", 0.10),
    "ell": ("bricks", 0.04),
    "flower": ("rings", 0.88),
    "hexagon": ("honeycomb", 0.12),
    "ring": ("spiral", 0.50),
    "square": ("plaid", 0.38),
    "star": ("speckle", 0.72),
    "triangle": ("grain", 0.08),
}
"""class -> (usual texture, favourite hue in turns)."""

STRANGE_TEXTURE = 1 / 6
HUE_SPREAD = 0.14  # standard deviation in turns: most hues are possible in every class, none is equally likely
BEVEL = 0.3  # width of the rounded rim, in radii


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where an object lies, in pixels of the canvas."""

    name: str
    """Its class."""
    x: float
    y: float
    radius: float
    """Of the circle around the outline, before the stretch."""
    turn: float
    """Radians, clockwise as y points down."""
    stretch: float
    """Width over height in object coordinates, area kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """The light of one image; all its objects share it."""

    turn: float
    """Direction that it comes from, radians in the image plane."""
    height: float
    """Sine of its elevation, 0..1: a low light gives long shadows and strong rims."""
    warmth: float
    """-1 (bluish) to 1 (reddish)."""
    exposure: float
    """Factor on all pixels."""


def paint(canvas: Float[np.ndarray, "h w 3"], place: Placement, light: Light, generator: Generator) -> Bool[np.ndarray, "h w"]:
    """Put the object and its shadow onto the canvas, in place. The mask of its pixels (centre inside the outline)."""
    h, w = canvas.shape[:2]
    reach = place.radius * 1.6 + 2  # the shadow reaches further than the object
    top, left = max(0, int(place.y - reach)), max(0, int(place.x - reach))
    window = (slice(top, min(h, int(place.y + reach) + 1)), slice(left, min(w, int(place.x + reach) + 1)))
    y, x = np.mgrid[window].astype(np.float32) + np.float32(0.5)
    _shade_ground(canvas[window], x, y, place, light)
    u, v = _object_coordinates(x, y, place)
    distance = OUTLINES[place.name](u, v).astype(np.float32)
    colours = _lit(_skin(generator, u, v, place), distance * np.float32(place.radius), place, light)
    alpha = np.clip(0.5 - distance * place.radius, 0, 1)[..., None]
    canvas[window] += alpha * (colours - canvas[window])
    mask = np.zeros((h, w), bool)
    mask[window] = distance <= 0
    return mask


def _object_coordinates(x: np.ndarray, y: np.ndarray, place: Placement) -> tuple[np.ndarray, np.ndarray]:
    """Pixel positions as (u, v) of the object, whose outline lies in the unit circle."""
    cos, sin, side = math.cos(place.turn), math.sin(place.turn), math.sqrt(place.stretch)
    dx, dy = (x - place.x) / place.radius, (y - place.y) / place.radius
    u, v = (cos * dx + sin * dy) / side, (cos * dy - sin * dx) * side
    return u.astype(np.float32), v.astype(np.float32)


def _shade_ground(patch: np.ndarray, x: np.ndarray, y: np.ndarray, place: Placement, light: Light) -> None:
    """Darken the patch by the object's soft shadow, cast away from the light."""
    cast = place.radius * (0.08 + 0.2 * (1 - light.height))
    dx, dy = cast * math.cos(light.turn), cast * math.sin(light.turn)
    distance = OUTLINES[place.name](*_object_coordinates(x + dx, y + dy, place))
    softness = 0.22
    shade = np.clip(0.5 - distance / softness, 0, 1)
    patch *= (1 - 0.5 * shade * shade * (3 - 2 * shade))[..., None].astype(np.float32)


def _skin(generator: Generator, u: np.ndarray, v: np.ndarray, place: Placement) -> np.ndarray:
    """The unlit colours [h w 3] of the object's surface."""
    usual, favourite = LOOKS[place.name]
    strange = generator.random() < STRANGE_TEXTURE
    texture = list(TEXTURES)[int(generator.integers(len(TEXTURES)))] if strange else usual
    cell = place.radius * generator.uniform(0.18, 0.32)
    noise = value_noise(generator, u.shape[0], u.shape[1], (cell, cell), 2)
    field = np.clip(TEXTURES[texture](generator, u, v, noise), 0, 1)
    hue = favourite + generator.normal() * HUE_SPREAD
    second = hue + generator.choice([-0.08, 0.08, 0.5, 0.33])
    bright, dark = generator.uniform(0.82, 1.0), generator.uniform(0.25, 0.5)
    pair = [
        hsv(hue, generator.uniform(0.65, 0.95), dark + generator.uniform(0.1, 0.3)),
        hsv(second, generator.uniform(0.12, 0.6), bright),
    ]
    return ramp(0.93 * field + 0.07 * noise, np.array(pair if generator.random() < 0.6 else pair[::-1], np.float32))


def _lit(colours: np.ndarray, distance_px: np.ndarray, place: Placement, light: Light) -> np.ndarray:
    """The colours under the light: the rim is rounded, so that its slope follows from the distance to the outline."""
    rim = np.clip(1 + distance_px / (BEVEL * place.radius), 0, 1)  # 0 inside, 1 at the outline
    down_y, down_x = np.gradient(distance_px) if min(distance_px.shape) > 1 else (0.0, 0.0)
    slope = rim * rim * 1.4
    flat = math.sqrt(1 - light.height**2)
    towards = flat * (down_x * math.cos(light.turn) + down_y * math.sin(light.turn))
    shade = (light.height + slope * towards) / np.sqrt(1 + slope * slope)
    gloss = np.clip((shade - 0.8) * 5, 0, 1) ** 2 * 0.35
    lit = colours * (0.45 + 0.65 * np.clip(shade, 0, 1.0))[..., None] + gloss[..., None]
    edge = np.clip(-distance_px / max(0.05 * place.radius, 0.8), 0, 1)  # a dark line separates like from like
    return np.asarray(lit * (0.55 + 0.45 * edge)[..., None], np.float32)


def draw_placement(generator: Generator, name: str, radius: float, x: float, y: float) -> Placement:
    """An object there, turned and stretched at random."""
    return Placement(
        name=name,
        x=x,
        y=y,
        radius=radius,
        turn=generator.random() * TURN,
        stretch=math.exp(generator.uniform(-0.28, 0.28)),
    )


def draw_light(generator: Generator) -> Light:
    """A light from anywhere."""
    return Light(
        turn=generator.random() * TURN,
        height=generator.uniform(0.55, 0.9),
        warmth=generator.uniform(-1, 1),
        exposure=generator.uniform(0.85, 1.3),
    )
