"""`insloc-eval`: one function per command. Signatures and sentences only; everything heavy is imported inside."""

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from insloc_hub.errors import InslocError

Many = tyro.conf.UseAppendAction[list[str]]


def run(
    *,
    model: Many,
    task: Annotated[Many, tyro.conf.arg(aliases=["--protocol"])],
    data: Path,
    out: Path,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    half: Literal["A", "B"] | None = None,
    cache: Path | None = None,
    seeds: int = 1,
    init_parts: Literal["trunk", "trunk+fpn", "trunk+fpn+head"] | None = None,
    extra_norm: Literal["on", "off"] | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    decompose: bool = False,
) -> None:
    """Judge frozen models, with randomly initialised ones beside, or train detectors from them, and print the table.

    Ctrl-C keeps what is finished; the same command goes on.

    For example:
      insloc-eval run --model runs/first --task linear --task patches --data photos --out results
      insloc-eval run --model random:resnet18 --model resnet18.a1_in1k --task patches/relocate --data photos --out results
      insloc-eval run --model runs/first --model random:resnet18 --task detection/quick --data cells --out results --seeds 3

    Args:
        model: A model: random:ARCH, ARCH.tag of timm, hf-hub:ORG/NAME, a card, or a folder. Repeat it for more.
        task: A family (linear, detection) or a protocol, family/name[@version]; insloc-eval ls lists them. Repeat it for more.
        data: Folder with train/ and val/, or of class folders, or (patches only) of images; the latter are cut 80/20.
        out: Folder of records, made if needed.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, or bf16 by autocast; records of the two are not compared.
        seed: Of the draws of patches/relocate, and of a detector's new layers, order and views.
        train_limit: At most this many training images, even over the classes.
        test_limit: At most this many test images, even over the classes.
        half: Only this half of the test images of every class: choose on A, report on B.
        cache: Folder of computed features.
        seeds: Detectors: this many, with seeds from the given one on.
        init_parts: Detectors: what starts from pretraining; the rest starts anew. By default as the protocol says (trunk).
        extra_norm: Detectors: the norm of paper.md A.7, for every arm or for none.
        batch_size: Detectors: scales the learning rate in proportion; the record then says +scaled.
        steps: Detectors: scales the schedule; the record then says +scaled.
        decompose: Detectors: the arms that split a gain into trunk, neck, head and norm; see compare --decompose.
    """
    from insloc_eval.ask import Tuning
    from insloc_eval.report.markdown import markdown
    from insloc_eval.run import evaluate

    options: dict[str, Any] = {"train_limit": train_limit, "test_limit": test_limit, "cache": cache, "half": half or ""}
    changed: dict[str, Any] = {"init_parts": init_parts, "extra_norm": extra_norm, "batch_size": batch_size, "steps": steps}
    tuning = Tuning(seeds=seeds, decompose=decompose, **changed)
    options |= {"seed": seed, "device": device, "precision": precision, "tuning": tuning}
    print("\n" + markdown(evaluate(model, task, data, out, **options)))


def compare(
    results: Annotated[Path, tyro.conf.Positional],
    first: Annotated[str, tyro.conf.Positional],
    second: Annotated[str, tyro.conf.Positional],
    *,
    decompose: bool = False,
) -> None:
    """Differences of two arms on the same images, with intervals. An arm is a model, or several seeds of one recipe.

    For example:
      insloc-eval compare results runs/first random:resnet18
      insloc-eval compare results "runs/insloc-seed*" "runs/moco-seed*"
      insloc-eval compare results 3f2a81c0 77b1de42

    Args:
        results: Folder of records.
        first: Model as the report names it, a pattern of models, or the start of a record's id; commas between several.
        second: The arm that is subtracted.
        decompose: Of detectors made by run --decompose: what trunk, neck, head and norm each add.
    """
    from insloc_eval.ask import shown
    from insloc_eval.compare import compare_models, sentences

    if decompose:
        from insloc_eval.detection.decompose import lines, steps

        print("\n".join(lines(steps(results, shown(first), shown(second)))))
        return
    for comparison in compare_models(results, shown(first), shown(second)):
        print("\n".join(sentences(comparison)))


def report(results: Annotated[Path, tyro.conf.Positional], *, out: Path | None = None, html: Path | None = None) -> None:
    """Print the tables of a folder of records.

    For example:
      insloc-eval report results --out results.md
      insloc-eval report results --html report.html

    Args:
        results: Folder of records.
        out: Also write them, as .md, .csv or .html.
        html: Also write one self-contained page, with bars, maps and commands.
    """
    from insloc_eval.report import check_ending, write_report
    from insloc_eval.report.markdown import markdown
    from insloc_eval.store import browse, sheets

    wanted = [(path, endings) for path, endings in ((out, None), (html, ".html")) if path is not None]
    for path, ending in wanted:
        check_ending(path, ending)
    shelf = browse(results)
    print(markdown(shelf.results), end="")
    for problem in shelf.problems:
        print(f"insloc-eval: left out: {problem}", file=sys.stderr)
    for path, _ in wanted:
        write_report(shelf.results, path, sheets(results, shelf.results))
        print(f"wrote {path}", file=sys.stderr)


def verify(
    record: Annotated[Path, tyro.conf.Positional],
    *,
    model: str | None = None,
    data: Path | None = None,
    device: str = "auto",
) -> None:
    """Run a record again, without cached features; exit code 0: reproduced, 1: differs by more than its noise.

    For example: insloc-eval verify results/linear/3f2a81c077b1de42.json --data photos

    Args:
        record: A JSON file of a folder of records.
        model: Where the model is now, if not where the record's command found it.
        data: Where the images are now, if not there.
        device: auto, cpu, cuda or cuda:N.
    """
    from insloc_eval.verify import sentence
    from insloc_eval.verify import verify as run_again

    found = run_again(record, model=model, data=data, device=device)
    print(sentence(found))
    if not found.reproduced:
        sys.exit(1)


def cache(*, folder: Path | None = None, clear: bool = False) -> None:
    """List the computed features that are kept, with their size, or remove them.

    For example:
      insloc-eval cache
      insloc-eval cache --clear

    Args:
        folder: Folder of features; by default $INSLOC_HOME/features.
        clear: Remove them all; they are computed again when they are needed.
    """
    from insloc_eval.cache import clear as remove
    from insloc_eval.cache import default_folder, entries
    from insloc_eval.report.lists import feature_list

    place = folder or default_folder()
    if clear:
        print(f"removed {remove(place) / 1e6:.1f} MB of features from {place}")
    else:
        print(feature_list(place, [(entry.what, entry.images, entry.size_bytes) for entry in entries(place)]))


def ls(results: Annotated[Path | None, tyro.conf.Positional] = None) -> None:
    """List the tasks, or the records of a folder.

    For example:
      insloc-eval ls
      insloc-eval ls results

    Args:
        results: Folder of records.
    """
    from insloc_eval.report.lists import record_list, task_list
    from insloc_eval.store import browse

    print(task_list() if results is None else record_list(browse(results)))


def show(record: Annotated[Path, tyro.conf.Positional]) -> None:
    """Print one record, checked against its outcomes.

    For example: insloc-eval show results/linear/3f2a81c077b1de42.json

    Args:
        record: A JSON file of a folder of records.
    """
    import json

    from insloc_eval.store import load

    print(json.dumps(load(record).result.as_dict(), indent=2, ensure_ascii=False))


def export(record: Annotated[Path, tyro.conf.Positional], *, data: Path, out: Path, onnx: bool = False) -> None:
    """Write the detector behind a record as a folder for torchvision: weights, facts and load.py, which checks itself.

    For example: insloc-eval export results/detection/3f2a81c077b1de42.json --data bccd --out detector

    Args:
        record: A JSON file of a folder of records; the training lies beside it.
        data: What the detector was trained on: its classes, and the picture that load.py checks itself on.
        out: Folder to write.
        onnx: Also write detector.onnx, for pictures of that one's size.
    """
    from insloc_eval.detection.export import SCRIPT, export_record

    facts = export_record(record, data, out, onnx=onnx)
    print(f"wrote {out}: {facts['protocol']} on {facts['arch']}, {facts['kinds']} classes. Load it with {out / SCRIPT}")


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "compare": compare,
    "report": report,
    "ls": ls,
    "show": show,
    "verify": verify,
    "cache": cache,
    "export": export,
}


def main() -> None:
    """Run one command; an error of the user's input is a sentence and exit code 2."""
    try:
        parse(COMMANDS)()
    except InslocError as error:
        print(f"insloc-eval: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("insloc-eval: stopped; finished records are kept. The same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)


def parse(commands: dict[str, Callable[..., None]]) -> Callable[[], None]:
    """The command that the command line asks for, ready to be called; wrong arguments are one line and exit code 2."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            later = {name: _later(command) for name, command in commands.items()}
            about = "Judge frozen backbones: read-outs and localization, with intervals and random rows."
            chosen: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(later, prog="insloc-eval", description=about)
    except SystemExit as stop:
        if stop.code:
            print(f"insloc-eval: {_one_line(errors.getvalue())}", file=sys.stderr)
        raise
    return chosen


def _later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The command with the same signature, put off: errors in its arguments are told from errors in its work."""

    @functools.wraps(command)
    def put_off(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return put_off


def _one_line(box: str) -> str:
    """The text of tyro's framed message."""
    lines = [line.strip("│ ").strip() for line in box.splitlines() if line.startswith("│") and "───" not in line]
    return re.sub(r"\s+", " ", " ".join(lines)) or " ".join(box.split())


if __name__ == "__main__":
    main()
