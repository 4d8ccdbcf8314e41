"""The record of a pretraining run: every choice of it, checked, and what follows from canvas, batch and data.

The same record is written to RUN/run.json. A variant is `dataclasses.replace(recipe, epochs=400)`. No torch here: a
wrong setting must be refused in milliseconds. The named ones are in recipes.py.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from insloc_hub import paper
from insloc_hub.errors import BadRun
from insloc_hub.files import digest

OBJECTIVES = ("contrast", "labels")
VIEWS = ("paste", "crops")
LEVELS = {"c4": 1, "fpn": len(paper.FPN_STRIDES), "whole": 1}  # variant -> embeddings per image


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One pretraining run, whole. Pixels are those of the canvas unless said."""

    name: str
    """The function of recipes.py that it came from."""
    arch: str
    """timm's name of the trunk."""
    init: str = "random"
    """What the trunk starts from: random, or a model spec with weights (contracts.md 1)."""
    objective: str = "contrast"
    """contrast (MoCo's), or labels: the supervised reference row."""
    views: str = "paste"
    """What a sample becomes: paste (two composites, InsLoc), or crops (two random-resized crops, MoCo v2)."""
    variant: str = "c4"
    """Encoder: c4 (as inferred, paper.md A.6), fpn (A.3), or whole: the mean of the last map, boxes unread (MoCo v2)."""
    canvas: int = paper.CANVAS
    """Side of the square composites, a multiple of 32."""
    foreground_bounds: tuple[int, int] = paper.FOREGROUND_BOUNDS
    """Smallest and largest drawn bound of the pasted crop's sides, both included."""
    blur_sigma: tuple[float, float] = paper.BLUR_SIGMA
    """Range of the Gaussian blur."""
    pixel_mean: tuple[float, float, float] = paper.PIXEL_MEAN
    """Of the input, RGB in 0..1; the card's own where `init` names one."""
    pixel_std: tuple[float, float, float] = paper.PIXEL_STD
    """As `pixel_mean`."""
    roi_size: int = paper.C4_ROI_SIZE
    """Side of C4's RoIAlign grid on the stride-16 map. FPN's is 7 at every canvas."""
    augment_levels: tuple[bool, ...] = (True,)
    """Per level, whether the query's box becomes a random anchor above IoU 0.5 (paper.md A.4)."""
    level_weights: tuple[float, ...] = (1.0,)
    """Per level, the weight of its loss in the sum."""
    batch: int = paper.BATCH
    """Images per optimizer step, over all processes."""
    bn_groups: int = paper.BATCH // paper.BN_GROUP
    """Groups of the batch with batch statistics of their own; keys are shuffled across them."""
    queue: int = paper.QUEUE_KEYS
    """Past keys kept as negatives, a multiple of the batch."""
    key_momentum: float = paper.KEY_MOMENTUM
    temperature: float = paper.TEMPERATURE
    embedding_dim: int = paper.EMBEDDING_DIM
    learning_rate: float = paper.LEARNING_RATE
    """At this recipe's batch."""
    sgd_momentum: float = paper.SGD_MOMENTUM
    weight_decay: float = paper.WEIGHT_DECAY
    decay_norms: bool = True
    """Whether norms and biases decay too, as released (paper.md A.8 no. 13)."""
    epochs: int = paper.EPOCHS
    """The cosine's length; `steps` cuts it short without changing it."""
    precision: str = "fp32"
    """Of the encoders' arithmetic: fp32, or bf16 by autocast. The loss is fp32 always."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def view_side(self) -> int:
        """Side of the network's input: the canvas, or MoCo's share of it for crops."""
        return self.canvas if self.views == "paste" else self.canvas * paper.MOCO_SIDE // paper.CANVAS

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def hash(self) -> str:
        """Hex digest of all fields."""
        return digest(self.as_dict())


def from_dict(values: dict[str, Any]) -> Recipe:
    """The record that `as_dict` gave. BadRun: a field is missing or unknown (written by another version)."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    unknown = sorted(set(values) - names)
    missing = sorted(names - set(values))
    if unknown or missing:
        raise BadRun(
            f"the recipe has unknown fields {unknown} and lacks {missing}; it was written by another version of insloc_hub"
        )
    fixed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Recipe(**fixed)


def at_canvas(recipe: Recipe, canvas: int) -> Recipe:
    """The recipe at another canvas with the paper's geometry kept in proportion (contracts.md 12)."""
    scale = canvas / paper.CANVAS
    roi = 2 * math.ceil(paper.C4_ROI_SIZE * scale / 2)  # next even number: the last stage halves it
    return dataclasses.replace(
        recipe,
        canvas=canvas,
        foreground_bounds=(canvas // 2, canvas - 2),
        blur_sigma=(paper.BLUR_SIGMA[0] * scale, paper.BLUR_SIGMA[1] * scale),
        roi_size=roi,
    )


def at_batch(recipe: Recipe, batch: int, **said: Any) -> Recipe:
    """The recipe at another batch: learning rate scaled linearly, groups of 32 images (at least 2), queue a multiple.

    `said` are fields that the user set: they win over what follows from the batch.
    """
    follows = {
        "bn_groups": max(2, batch // paper.BN_GROUP),
        "learning_rate": recipe.learning_rate * batch / recipe.batch,
        "queue": max(batch, recipe.queue // batch * batch),
    }
    return dataclasses.replace(recipe, batch=batch, **{**follows, **said})


def fit_to_data(recipe: Recipe, images: int) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe made fit for a set of `images`, and a sentence for each change.

    A queue longer than half the set would hold most instances' own older keys as negatives. [ours]
    """
    most = max(recipe.batch, images // 2 // recipe.batch * recipe.batch)
    if recipe.queue <= most or recipe.objective == "labels":
        return recipe, ()
    reason = f"queue {recipe.queue} -> {most}: with {images} images a longer one holds the queries' own instances as negatives"
    return dataclasses.replace(recipe, queue=most), (reason,)


def _check(recipe: Recipe) -> None:
    low, high = recipe.foreground_bounds
    levels = LEVELS.get(recipe.variant, 0)
    rules = [
        (recipe.objective in OBJECTIVES, f"objective {recipe.objective!r} is unknown; there are {', '.join(OBJECTIVES)}"),
        (recipe.views in VIEWS, f"views {recipe.views!r} are unknown; there are {', '.join(VIEWS)}"),
        (levels > 0, f"variant {recipe.variant!r} is unknown; there are {', '.join(LEVELS)}"),
        (
            recipe.canvas >= 64 and recipe.canvas % 32 == 0,
            f"canvas {recipe.canvas} must be a multiple of 32, at least 64",
        ),
        (
            0 < low <= high < recipe.canvas,
            f"foreground bounds {low}..{high} must lie inside the canvas {recipe.canvas}",
        ),
        (recipe.batch >= 1, f"batch {recipe.batch} must be positive"),
        (recipe.bn_groups >= 1, f"bn_groups {recipe.bn_groups} must be positive"),
        (recipe.epochs >= 1, f"epochs {recipe.epochs} must be positive"),
        (recipe.temperature > 0, f"temperature {recipe.temperature} must be positive"),
        (recipe.precision in ("fp32", "bf16"), f"precision {recipe.precision!r} is unknown; there are fp32 and bf16"),
        (0 <= recipe.learning_rate < math.inf, f"learning rate {recipe.learning_rate} must be a number from 0"),
        (recipe.queue >= 1, f"queue {recipe.queue} must be positive"),
        (0 <= recipe.seed < 2**32, f"seed {recipe.seed} must lie in 0..{2**32 - 1}"),
        (
            len(recipe.augment_levels) == len(recipe.level_weights) == levels,
            f"{recipe.variant} has {levels} levels, but augment_levels {recipe.augment_levels} and level_weights "
            f"{recipe.level_weights} have {len(recipe.augment_levels)} and {len(recipe.level_weights)} entries",
        ),
        (
            recipe.variant != "whole" or not any(recipe.augment_levels),
            "variant 'whole' reads no box, so there is none to augment: say augment_levels=(False,)",
        ),
        (
            recipe.views != "crops" or recipe.variant == "whole",
            f"crops have no pasted box for variant {recipe.variant!r} to look into; views 'crops' go with variant 'whole'",
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise BadRun(message)
    if recipe.batch % recipe.bn_groups or recipe.batch // recipe.bn_groups < 4:
        raise BadRun(
            f"batch {recipe.batch} does not split into {recipe.bn_groups} groups of at least 4 images. The key's batch "
            "statistics must come from other images than the query's, or they give the answer away (MoCo, sec. 3.3): "
            "take a batch that is a multiple of 8, or bn_groups=1 to accept the leak knowingly"
        )
    if recipe.queue % recipe.batch:
        near = max(recipe.batch, recipe.queue // recipe.batch * recipe.batch)
        raise BadRun(f"queue {recipe.queue} must be a multiple of the batch {recipe.batch}; the nearest is {near}")
