"""What the reference run consists of, as frozen records (docs/reference-run.md is the plan in words). Torch-free.

A change of a number here is a change of the plan: say it there.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from insloc_eval.ask import Tuning
from insloc_hub.errors import InslocError
from insloc_hub.recipe import Recipe, at_batch, at_canvas
from insloc_hub.recipes import find_recipe

PRIMARY_ARMS = ("insloc_c4", "moco_v2")
"""The endpoint is the first minus the second."""
LADDER_ARMS = ("paste_whole", "paste_box", "supervised")
CHOICE_OF = {"insloc_fpn": "insloc_c4", "paste_whole": "insloc_c4", "paste_box": "insloc_c4", "supervised": "moco_v2"}
"""Arms that were not tried themselves -> whose choice they take."""
TRIES: dict[str, dict[str, Any]] = {
    "first": {},
    "lr03": {"learning_rate": 0.03},
    "lr12": {"learning_rate": 0.12},
    "m996": {"key_momentum": 0.996},
}
"""Name of a try -> changes of the first values, the same for both methods."""
CHOOSE_BY = ("patches/relocate@1", "acc50")
SEEDS_NEEDED = 3
THREE_TUNINGS = Tuning(seeds=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One thing to do; each can be cut at any step or record and gone on with."""

    name: str
    about: str
    minutes: str
    """On one H100-class GPU at the full setting; e: an estimate (docs/gpu_plan.md says from what)."""
    arms: tuple[str, ...] = ()


STAGES = (
    Stage(name="profile", about="samples/s, waiting for data, costly operators", minutes="4e", arms=PRIMARY_ARMS),
    Stage(name="pilots", about="4 tries for each of MoCo v2 and InsLoc-C4, judged on half A", minutes="14e", arms=PRIMARY_ARMS),
    Stage(name="main", about="MoCo v2 and InsLoc-C4, seed by seed", minutes="16e", arms=PRIMARY_ARMS),
    Stage(name="fpn", about="InsLoc-FPN, seed by seed", minutes="15e", arms=("insloc_fpn",)),
    Stage(name="ladder", about="the rungs between, and the supervised row", minutes="23e", arms=LADDER_ARMS),
    Stage(name="judge-a", about="every finished run on half A: for looking around", minutes="1e a run"),
    Stage(name="judge-b", about="every finished run on half B: the result, looked at once", minutes="1e a run"),
    Stage(
        name="detection",
        about="fine-tuned from the runs of main and random weights: quick on BCCD; tin-low-10, tin-low-1 (half B)",
        minutes="540e",
    ),
    Stage(name="report", about="tables and differences from the records", minutes="0"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How large everything is."""

    name: str
    stages: tuple[str, ...]
    """If none are named."""
    seeds: tuple[int, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    """Of every recipe, after canvas and batch."""
    canvas: int | None = None
    batch: int | None = None
    steps: int | None = None
    """Of every run; None: all its epochs."""
    pilot_epochs: int = 15
    profile_steps: int = 300
    tasks: tuple[str, ...] = ("patches/relocate", "boxes/linear", "linear/logistic")
    """Judged on a half of the test images."""
    mosaic: bool = True
    """Whether regions/mosaic is asked too; it halves by itself."""
    cells: str = "detection/quick"
    """How detectors are judged on BCCD."""
    detection: tuple[str, ...] = ("detection/tin-low-10", "detection/tin-low-1")
    """And on the photographs."""
    tuning: Tuning = THREE_TUNINGS
    """Of every detector; seeds are fine-tunings."""
    picture_limit: int | None = None
    """Of the pictures that a detector learns from, and of those it is asked on."""
    precision: str = "bf16"
    train_limit: int | None = None
    test_limit: int | None = None


FULL = Setting(name="full", stages=("pilots", "main", "judge-b", "report"), seeds=(1, 2, 3))
CPU = Setting(
    name="cpu",
    stages=("main", "judge-a", "report"),
    seeds=(0, 1, 2),
    canvas=64,
    batch=64,
    changes={"arch": "test_resnet", "queue": 2048, "learning_rate": 0.03},
    steps=120,
    tasks=("patches/relocate", "linear/logistic"),
    mosaic=False,
    train_limit=2000,
    test_limit=400,
)
DRY = Setting(
    name="dry",
    stages=tuple(stage.name for stage in STAGES),
    seeds=(1, 2, 3),
    canvas=64,
    batch=16,
    changes={"arch": "test_resnet", "queue": 64},
    steps=2,
    pilot_epochs=1,
    profile_steps=4,
    # C4, since an FPN's head costs a second a picture on a CPU; and not tin-low, whose mosaics need boxes.json
    cells="detection/quick-c4",
    detection=("detection/quick-c4",),
    tuning=Tuning(steps=2, batch_size=1),
    picture_limit=2,
    precision="fp32",
    train_limit=24,
    test_limit=24,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One call of the command, checked."""

    out: Path
    data: Path
    setting: Setting
    stages: tuple[str, ...]
    seeds: tuple[int, ...]
    bccd: Path | None = None
    """Folder of the blood cells; None: there is none."""
    budget: float = 1.0
    """Scales epochs and steps."""
    device: str = "auto"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """InslocError: an unknown stage, a budget that would go to epochs before seeds."""
        known = [stage.name for stage in STAGES]
        for name in self.stages:
            if name not in known:
                raise InslocError(f"unknown stage {name!r}; there are {', '.join(known)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InslocError(f"--seeds {' '.join(map(str, self.seeds))}: give different numbers from 0")
        if not 0 < self.budget < 100:
            raise InslocError(f"--budget {self.budget:g} must lie above 0 and below 100")
        if self.budget > 1 and len(self.seeds) < SEEDS_NEEDED:
            raise InslocError(
                f"--budget {self.budget:g} with {len(self.seeds)} seeds: until there are {SEEDS_NEEDED} seeds an arm, "
                "minutes go to seeds, not to epochs (docs/reference-run.md)"
            )

    @property
    def records(self) -> Path:
        """Folder of records."""
        return self.out / "records"

    def steps(self) -> int | None:
        """Optimizer steps of a run; None: all its epochs."""
        return None if self.setting.steps is None else max(1, round(self.setting.steps * self.budget))


def recipe_of(asked: Asked, arm: str, seed: int, changes: dict[str, Any], epochs: int | None = None) -> Recipe:
    """The recipe of one run: the arm's first values, the setting's, then `changes` (a try, a choice). InslocError."""
    setting = asked.setting
    recipe = find_recipe(f"{arm}_r18_tiny")
    recipe = recipe if setting.canvas is None else at_canvas(recipe, setting.canvas)
    recipe = recipe if setting.batch is None else at_batch(recipe, setting.batch)
    length = max(1, round((epochs or recipe.epochs) * asked.budget))
    said = {"seed": seed, "precision": asked.precision, "epochs": length, **setting.changes, **changes}
    return replace(recipe, **said)
