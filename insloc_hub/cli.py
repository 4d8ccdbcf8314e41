"""`insloc`: one function per command. Signatures and sentences only; everything heavy is imported inside."""

import shlex
import sys
from collections.abc import Callable
from functools import partial
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from insloc_hub.errors import InslocError
from insloc_hub.pretrain.flags import PretrainFlags

TIME_IS_UP = 75  # sysexits.h EX_TEMPFAIL: the same command later goes on


def pretrain(run: Annotated[PretrainFlags, tyro.conf.OmitArgPrefixes]) -> None:
    """Pretrain a backbone on images without labels, then write OUT/model for timm.

    Ctrl-C saves and stops; --data, --out and --resume go on. Exit code 0: finished; 75: saved at the time limit; 130:
    saved after Ctrl-C; 2: refused, or collapsed under --strict.

    For example:
      insloc pretrain --data photos --arch resnet18 --out runs/first --steps 2000
      insloc pretrain --data photos --out runs/first --resume
      insloc pretrain --data photos --out runs/first --resume auto --time-limit 9m
      insloc pretrain --data photos --init resnet50.a1_in1k --out runs/continued
      torchrun --nproc-per-node 8 -m insloc_hub.cli pretrain --recipe insloc_fpn_r50_200ep --data IMAGENET/train --out RUN
    """
    recipe, options = run.settled(), run.options(command())
    from insloc_hub.parallel.distributed import first_process
    from insloc_hub.pretrain.run import pretrain as start

    finish = start(recipe, options)
    if finish.interrupted or finish.out_of_time:
        if first_process():
            print(f"stopped at step {finish.step} of {finish.total}, saved. Go on: {resume_command(run.data, run.out)}")
        sys.exit(130 if finish.interrupted else TIME_IS_UP)
    if first_process():
        export(run=run.out)


def plan(
    *, data: Path, out: Path = Path("runs/first"), device: str = "auto", hours: float = 24.0, arch: str | None = None
) -> None:
    """Look at your images and this device, and propose a run: reasons, price in hours, and the command. Writes nothing.

    For example:
      insloc plan --data photos
      insloc plan --data photos --arch convnext_atto --hours 8

    Args:
        data: As for pretrain.
        out: Run folder that the proposed command names.
        device: auto, cpu, cuda or cuda:N.
        hours: The longest run you would wait for.
        arch: timm's name of a CNN, if you have chosen one.
    """
    from insloc_hub.pretrain.options import check_plan

    check_plan(data, hours)
    from insloc_hub.pretrain.plan import plan as propose

    print(propose(data, device, out, hours, arch))


def recipes() -> None:
    """List the recipes, a line each.

    For example: insloc recipes
    """
    from insloc_hub.recipes import RECIPES

    for name, recipe in RECIPES.items():
        print(f"{name:22} {(recipe.__doc__ or '').splitlines()[0]}")


def export(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write RUN/model, a folder that plain timm reads, from the run's last checkpoint.

    For example: insloc export runs/first
    """
    from insloc_hub.release.export import export_run

    print(f"wrote {export_run(run)}; load it: timm.create_model('local-dir:{run / 'model'}', pretrained=True)")


def models() -> None:
    """List the models that have a name of ours: what each is, its scores, and where its weights are or how to get them.

    Besides them, every timm name is a model.

    For example: insloc models
    """
    from insloc_hub.models.listing import table
    from insloc_hub.models.zoo import zoo_folders

    print(table())
    places = " or ".join(map(str, zoo_folders()))
    print(f"an exported folder that is copied to {places} as insloc_ARCH.TAG is a model of this table")


def fetch(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None,
    /,
    *,
    official: Path | None = None,
    again: bool = False,
) -> None:
    """Bring a model of the zoo or of the Hub to this machine and check its sha256; or turn the authors' own file into a model.

    For example:
      insloc fetch hf-hub:timm/resnet18.a1_in1k
      insloc fetch --official insloc_fpn_400ep.pkl
      insloc fetch insloc_resnet50.fpn_400ep_in1k --official downloaded.pkl

    Args:
        name: A name of `insloc models`, or hf-hub:ORG/NAME[@REVISION].
        official: One of the four files that the authors of InsLoc publish.
        again: Download even what is in the cache.
    """
    if official is not None:
        from insloc_hub.models.official import adopt

        print("\n".join(adopt(official, name).sentences()))
    elif name is None:
        raise InslocError("say what to fetch: a name of `insloc models`, hf-hub:ORG/NAME, or --official FILE")
    else:
        from insloc_hub.models.fetch import fetch as start

        print(start(name, again))


def convert(
    src: Annotated[Path, tyro.conf.Positional],
    *,
    to: Literal["timm", "torchvision", "detectron2", "mmdet", "onnx"],
    out: Path,
    parts: Literal["trunk", "fpn", "head", "all"] = "all",
    encoder: Literal["query", "key"] = "query",
    strict: bool = False,
    json: bool = False,
) -> None:
    """Rewrite a ResNet's weights in another ecosystem's names, proved before OUT exists.

    The layout of SRC is told from its content: InsLoc, MoCo, DenseCL, SoCo, detectron2, mmdet, torchvision, timm, VISSL,
    solo-learn, lightly. If the proof fails there is no OUT.

    For example:
      insloc convert insloc_fpn.pth --to timm --out insloc_fpn
      insloc convert insloc_fpn --to torchvision --out fpn.pth --parts all

    Args:
        src: Weights file, or an exported folder or run.
        to: Who is to read the result.
        out: A folder for timm; a .pkl for detectron2, .pth for torchvision and mmdet (or .safetensors), .onnx.
        parts: Backbone, pyramid, box head, or all that SRC holds.
        encoder: Of a file with a momentum twin: the trained one or the twin.
        strict: Refuse what is otherwise a warning.
        json: Print the facts for machines.
    """
    from insloc_hub.checkpoints.convert import convert as start

    done = start(src, to, out, parts=parts, encoder=encoder, strict=strict)
    print(dumps(done.as_json()) if json else "\n".join(done.sentences()))


def verify(
    a: Annotated[Path, tyro.conf.Positional],
    b: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[B]")] = None,
    /,
    *,
    encoder: Literal["query", "key"] = "query",
    strict: bool = False,
    json: bool = False,
) -> None:
    """What is this weights file, what must it be fed, will it load? With B: are the two the same network?

    Ends with exit code 1 where the answer is no.

    For example:
      insloc verify insloc_fpn.pth
      insloc verify insloc_fpn.pth fpn.pkl --json

    Args:
        a: Weights file, or an exported folder or run.
        b: A second one.
        encoder: Of a file with a momentum twin: the trained one or the twin.
        strict: Suspicions and unknown tensors are a no.
        json: Print the facts for machines.
    """
    from insloc_hub.checkpoints.read import read_checkpoint
    from insloc_hub.checkpoints.report import as_json, as_text
    from insloc_hub.checkpoints.verify import verify_one, verify_two

    first = read_checkpoint(a)
    verdict = verify_one(first, encoder) if b is None else verify_two(first, read_checkpoint(b), encoder)
    print(dumps(as_json(verdict)) if json else as_text(verdict))
    if not verdict.agrees or (strict and verdict.doubtful):
        sys.exit(1)


def publish(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")],
    *,
    repo: str,
    out: Path = Path("published"),
    records: Path | None = None,
    licence: str | None = None,
    datasets: tuple[str, ...] = (),
    private: bool = False,
    dry_run: bool = False,
) -> None:
    """Write OUT/ORG/NAME as the Hub has models, read it back through plain timm, show what would change, and push it.

    What a person writes into the card stays. HF_TOKEN or `hf auth login` opens the door.

    For example:
      insloc publish runs/first --repo lab/resnet18.insloc_c4_photos --dry-run
      insloc publish runs/first --repo lab/resnet18.insloc_c4_photos --records results --licence apache-2.0

    Args:
        source: A run, a folder of export or convert, or anybody's ResNet weights.
        repo: ORG/NAME; with a NAME like ARCH.insloc_TAG, `insloc models` lists it too.
        out: Where ORG/NAME is written.
        records: Folder of `insloc-eval run`, for the numbers of the card.
        licence: The Hub's word for it, e.g. apache-2.0, cc-by-nc-4.0.
        datasets: The Hub's names of what it was trained on.
        private: Make a new repository private.
        dry_run: Write the folder, say what would be sent, send nothing.
    """
    from insloc_hub.release.hub_folder import Wish
    from insloc_hub.release.publish import publish as start

    wish = Wish(
        source=source, repo=repo, out=out, records=records, licence=licence, datasets=datasets, private=private, dry_run=dry_run
    )
    start(wish, command(), partial(print, flush=True))


def pull(
    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[ORG/NAME[@REV] ...] FOLDER")],
    /,
    *,
    all: bool = False,
    author: str | None = None,
    search: str | None = None,
) -> None:
    """Fill FOLDER with models of the Hub, for machines that can't reach it; there, serve it with: insloc mirror FOLDER.

    Files that are there are checked and kept, so that the same command goes on and brings up to date. HF_ENDPOINT names
    another registry, HF_TOKEN opens private ones.

    For example:
      insloc pull timm/resnet18.a1_in1k models
      insloc pull --author timm --search resnet10t models

    Args:
        words: Models, and last the folder to fill.
        all: Every model of the zoo.
        author: Every model of one organisation.
        search: Every model with this in its name.
    """
    from insloc_hub.release.mirror import pull as start
    from insloc_hub.release.mirror import wanted

    folder, names = wanted(words, all, author, search)
    start(folder, names, partial(print, flush=True))


def mirror(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    *,
    host: str = "127.0.0.1",
    port: int = 8412,
    token_file: Path | None = None,
) -> None:
    """Serve the models of FOLDER as the Hub would: clients find it through HF_ENDPOINT. Read-only.

    Ends with SIGTERM or Ctrl-C. Who may read: everybody who reaches it, or who has the token in HF_TOKEN.

    For example:
      insloc mirror models
      insloc mirror models --host 0.0.0.0 --port 8412 --token-file token.txt

    Args:
        folder: ORG/NAME/ for each model, put there by insloc pull or by hand.
        host: Address to listen on; 0.0.0.0 for all that this machine has.
        port: TCP port; 0 takes a free one.
        token_file: A file with the token that clients must send; or set INSLOC_MIRROR_TOKEN.
    """
    from insloc_server.mirror import serve

    serve(folder, host, port, token_file, partial(print, flush=True))


def demo(*, out: Path = Path("demo"), seed: int = 0, fast: bool = False) -> None:
    """The main job in minutes, with no files and no network: pretrain, export, evaluate, serve, report.

    For example:
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
    commands: dict[str, Callable[..., Any]] = {"plan": plan, "pretrain": pretrain, "recipes": recipes}
    commands |= {"export": export, "models": models, "fetch": fetch, "convert": convert, "verify": verify, "demo": demo}
    commands |= {"publish": publish, "pull": pull, "mirror": mirror}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="insloc",
            description="Detection pretraining without labels (InsLoc): pretrain, export, convert, demo.",
        )
    except InslocError as error:
        print(f"insloc: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("insloc: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
