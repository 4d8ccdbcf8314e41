"""The flags of `insloc pretrain`, and what they come to. Torch-free: a wrong one is refused in milliseconds."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from insloc_hub.errors import BadRun
from insloc_hub.pretrain.options import RunOptions, check_resume, resolve_recipe, seconds_of
from insloc_hub.recipe import Recipe

# What is left out (None) follows from the recipe.
Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Whole = Annotated[int | None, tyro.conf.arg(metavar="INT")]
Number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]
Cache = Literal["auto", "ram", "off"]
Precision = Annotated[Literal["fp32", "bf16"] | None, tyro.conf.arg(metavar="{fp32,bf16}")]
YesNo = Annotated[Literal["yes", "no"] | None, tyro.conf.arg(metavar="{yes,no}")]
Duration = Annotated[str | None, tyro.conf.arg(metavar="DURATION")]
# `--resume` alone, or `--resume auto`.
Resume = Annotated[
    str,
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[auto]",
        instance_from_str=lambda said: said[0] if said else "yes",
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    ),
]
RESUMES = ("no", "yes", "auto")

DEFAULT_RECIPE = "insloc_c4_small"


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainFlags:
    """What to train on, how, and where to."""

    data: Path
    """Folder of images (searched recursively), tar shards, or a text file with one path a line."""
    out: Path
    """Run folder to make."""
    arch: Name = None
    """timm's name of a CNN; for C4 recipes one whose last stage is one module (ResNet, RegNet, ConvNeXt families)."""
    recipe: Name = None
    """Starting point; insloc_c4_small if none is named. `insloc recipes` lists them."""
    init: Name = None
    """Weights to start from: a timm name, hf-hub:, local-dir:, a card or a folder; architecture, canvas and input
    convention follow it. Random if not named."""
    epochs: Whole = None
    """Length of the run and of its cosine."""
    steps: Whole = None
    """Stop after this many steps; the cosine is shortened to end there."""
    batch: Whole = None
    """Images per step; learning rate, groups and queue follow it."""
    canvas: Whole = None
    """Side of the composites in pixels; sizes, blur and RoI grid follow it."""
    queue: Whole = None
    """Past keys kept as negatives, a multiple of the batch."""
    lr: Number = None
    """Learning rate at this batch."""
    bn_groups: Whole = None
    """Groups of the batch with batch statistics of their own."""
    decay_norms: YesNo = None
    """Weight decay on norms and biases too, as the paper's release does."""
    seed: Whole = None
    """Of weights, order and every draw."""
    resume: Resume = "no"
    """Continue the run in OUT; the recipe is the run's own. `--resume auto` starts it where it has no checkpoint yet."""
    time_limit: Duration = None
    """Save, stop and exit with 75 after this long: 90s, 9m, 2h. `--resume auto` goes on."""
    strict: bool = False
    """Refuse instead of changing the recipe for the data; end a run that collapses."""
    profile: bool = False
    """Time the first 35 steps, say where their time goes and what to turn (also in OUT/profile.json), and go on."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = None
    """fp32, or bf16 by autocast."""
    cache: Cache = "auto"
    """Decoded images in memory: as many as --cache-gib holds, all of them, or none."""
    cache_gib: float = 4.0
    """Memory for decoded images with --cache auto."""

    def settled(self) -> Recipe | None:
        """The recipe with what was said; None to resume. BadRun, UnknownName."""
        if self.resume not in RESUMES:
            raise BadRun(f"--resume {self.resume} is unknown; say --resume alone, or --resume auto")
        changes: dict[str, Any] = {
            "arch": self.arch,
            "init": self.init,
            "epochs": self.epochs,
            "queue": self.queue,
            "learning_rate": self.lr,
            "bn_groups": self.bn_groups,
            "decay_norms": None if self.decay_norms is None else self.decay_norms == "yes",
            "seed": self.seed,
            "precision": self.precision,
        }
        if self.resume == "yes":
            check_resume({"recipe": self.recipe, "batch": self.batch, "canvas": self.canvas, **changes})
            return None
        return resolve_recipe(self.recipe or DEFAULT_RECIPE, batch=self.batch, canvas=self.canvas, changes=changes)

    def options(self, command: str) -> RunOptions:
        """What is no property of the method. BadRun."""
        return RunOptions(
            data=self.data,
            run=self.out,
            steps=self.steps,
            resume=self.resume != "no",
            if_any=self.resume == "auto",
            strict=self.strict,
            profile=self.profile,
            time_limit_s=math.inf if self.time_limit is None else seconds_of(self.time_limit),
            device=self.device,
            cache=self.cache,
            cache_gib=self.cache_gib,
            follow=tuple(name for name, said in (("arch", self.arch), ("canvas", self.canvas)) if said is None),
            command=command,
        )
