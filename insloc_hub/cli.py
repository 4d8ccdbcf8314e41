"""`insloc`: one function per command. Signatures and sentences only; everything heavy is imported inside."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from insloc_hub.errors import InslocError

# What is left out (None) follows from the recipe.
Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Whole = Annotated[int | None, tyro.conf.arg(metavar="INT")]
Number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]
Precision = Annotated[Literal["fp32", "bf16"] | None, tyro.conf.arg(metavar="{fp32,bf16}")]


def pretrain(
    *,
    data: Path,
    out: Path,
    arch: Name = None,
    recipe: Name = None,
    epochs: Whole = None,
    steps: Whole = None,
    batch: Whole = None,
    canvas: Whole = None,
    queue: Whole = None,
    lr: Number = None,
    bn_groups: Whole = None,
    init: Name = None,
    decay_norms: bool | None = None,
    seed: Whole = None,
    resume: bool = False,
    device: str = "auto",
    precision: Precision = None,
    cache_gib: float = 4.0,
) -> None:
    """Pretrain a backbone on images without labels, then write OUT/model for timm.

    Ctrl-C saves and stops; --data, --out and --resume go on.

    Examples:
      insloc pretrain --data photos --arch resnet18 --out runs/first --steps 2000
      insloc pretrain --data photos --out runs/first --resume
      insloc pretrain --data photos --init resnet50.a1_in1k --out runs/continued
      torchrun --nproc-per-node 8 -m insloc_hub.cli pretrain --recipe insloc_fpn_r50_200ep --data IMAGENET/train --out RUN

    Args:
        data: Folder of images (searched recursively), tar shards, or a text file with one path a line.
        out: Run folder to make.
        arch: timm's name of a CNN; for C4 recipes one whose last stage is one module (ResNet, RegNet, ConvNeXt families).
        recipe: Starting point; insloc_c4_small if none is named. `insloc recipes` lists them.
        epochs: Length of the run and of its cosine.
        steps: Stop after this many steps; the cosine is shortened to end there.
        batch: Images per step; learning rate, groups and queue follow it.
        canvas: Side of the composites in pixels; sizes, blur and RoI grid follow it.
        queue: Past keys kept as negatives, a multiple of the batch.
        lr: Learning rate at this batch.
        bn_groups: Groups of the batch with batch statistics of their own.
        init: Weights to start from: a timm name, hf-hub:, local-dir:, a card or a folder; architecture, canvas and input
            convention follow it. Random if not named.
        decay_norms: Weight decay on norms and biases too, as the paper's release does.
        seed: Of weights, order and every draw.
        resume: Continue the run in OUT; the recipe is the run's own.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, or bf16 by autocast.
        cache_gib: Memory for decoded images.
    """
    from insloc_hub.pretrain.options import RunOptions, check_resume, resolve_recipe

    changes = {"arch": arch, "epochs": epochs, "queue": queue, "learning_rate": lr, "bn_groups": bn_groups, "seed": seed}
    changes |= {"precision": precision, "init": init, "decay_norms": decay_norms}
    if resume:
        check_resume({"recipe": recipe, "batch": batch, "canvas": canvas, **changes})
    chosen = None if resume else resolve_recipe(recipe or "insloc_c4_small", batch=batch, canvas=canvas, changes=changes)
    follow = tuple(name for name, said in (("arch", arch), ("canvas", canvas)) if said is None)
    options = RunOptions(
        data=data, run=out, steps=steps, resume=resume, device=device, cache_gib=cache_gib, follow=follow, command=command()
    )
    from insloc_hub.parallel.distributed import first_process
    from insloc_hub.pretrain.run import pretrain as start

    finish = start(chosen, options)
    if finish.interrupted:
        if first_process():
            print(f"stopped at step {finish.step} of {finish.total}, saved. Go on: {resume_command(data, out)}")
        sys.exit(130)
    if first_process():
        export(run=out)


def recipes() -> None:
    """List the recipes, a line each.

    Example: insloc recipes
    """
    from insloc_hub.recipes import RECIPES

    for name, recipe in RECIPES.items():
        print(f"{name:22} {(recipe.__doc__ or '').splitlines()[0]}")


def export(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write RUN/model, a folder that plain timm reads, from the run's last checkpoint.

    Example: insloc export runs/first
    """
    from insloc_hub.release.export import export_run

    print(f"wrote {export_run(run)}; load it: timm.create_model('local-dir:{run / 'model'}', pretrained=True)")


def models() -> None:
    """List the model cards at hand. Besides them, every timm name is a model.

    Example: insloc models
    """
    from insloc_hub.models.zoo import list_models, zoo_folders

    names = list_models()
    for name in names:
        print(name)
    if not names:
        print("no cards yet. A card is an exported folder called insloc_ARCH.TAG in one of:")
        for folder in zoo_folders():
            print(f"  {folder}")


def demo(*, out: Path = Path("demo"), seed: int = 0, fast: bool = False) -> None:
    """The main job in minutes, with no files and no network: pretrain, export, evaluate, serve, report.

    Examples:
      insloc demo
      insloc demo --out my-demo --fast

    Args:
        out: Folder to fill; ends with OUT/report.html.
        seed: Of the images and of the pretraining.
        fast: A tenth of the work, to see that everything runs.
    """
    from insloc_hub.demo.story import tell

    print(f"wrote {tell(out, seed=seed, fast=fast)}")


def command() -> str:
    """The command line as typed, for records."""
    return shlex.join(["insloc", *sys.argv[1:]])


def resume_command(data: Path, out: Path) -> str:
    """What goes on with a stopped run: without the recipe's flags, of which a resumed run takes none."""
    return shlex.join(["insloc", "pretrain", "--data", str(data), "--out", str(out), "--resume"])


def main() -> None:
    """Run one command; an error of the user's input is a sentence and exit code 2."""
    commands: dict[str, Callable[..., Any]] = {"pretrain": pretrain, "recipes": recipes, "export": export}
    commands |= {"models": models, "demo": demo}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="insloc", description="Detection pretraining without labels (InsLoc): pretrain, export, demo."
        )
    except InslocError as error:
        print(f"insloc: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("insloc: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
