"""What a run on these images should look like, and what it costs: look at the data, try the device, propose. [ours]

Nothing is guessed that can be measured: sizes and decode speed come from a sample of the images, the price from real
steps on this device. Numbers of the paper are kept where the data allow; each choice says why it is what it is.
"""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from insloc_hub import paper
from insloc_hub.data.cache import CHANNELS
from insloc_hub.data.loader import steps_per_epoch
from insloc_hub.models.extractor import find_device
from insloc_hub.pretrain.images import SHORT_SIDES, list_for
from insloc_hub.pretrain.survey import Survey, Trial, look_at, try_steps
from insloc_hub.recipe import Recipe, at_batch, at_canvas, fit_to_data
from insloc_hub.recipes import insloc_c4_r50_200ep, insloc_c4_small

GIB = 2**30
QUEUE_SHARE = 1 / 4  # of the set, at most
LEAST_STEPS = 5_000  # updates below which a network from scratch has hardly begun
MOST_EPOCHS = 800
LARGE_SET = 100_000  # images from which the paper's own recipe is the start
DETAIL = 160  # px of short side from which a 256 px canvas shows more than a 128 px one
BATCHES = {"cpu": 32, "cuda": paper.BATCH}
CACHE_SHARE = 0.5  # of the free memory
PHOTO = 400  # px of median short side from which images are whole photographs
SCENE = 2  # boxes an image from which it is a scene
CUT_OUT = (
    "if there are boxes, cut the objects out, each with some margin, and plan for that folder; if not, cut the photographs "
    "into overlapping tiles, or keep them and judge with insloc-eval what was gained"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A row of the plan."""

    name: str
    value: str
    reason: str
    price: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is proposed."""

    recipe: Recipe
    hours: float
    """Of the whole run on the device that was tried."""
    choices: tuple[Choice, ...]
    warnings: tuple[str, ...]
    command: str


def plan(data: Path, device_name: str, out: Path, hours: float, arch: str | None) -> str:
    """The proposal as text, ending with the command. BadData; InslocError: no such device or network."""
    device = find_device(device_name)
    images = list_for(data, insloc_c4_small())
    survey = look_at(images, data)
    recipe = first_recipe(survey, device.type, arch)
    trial = try_steps(images, recipe, device)
    return as_text(make_plan(survey, recipe, trial, hours=hours, data=data, out=out), survey)


def first_recipe(survey: Survey, device: str, arch: str | None) -> Recipe:
    """Recipe, network, canvas and batch, before anything is timed; `device` is cpu or cuda."""
    large = device == "cuda" and survey.images >= LARGE_SET
    recipe = insloc_c4_r50_200ep() if large else insloc_c4_small()
    recipe = dataclasses.replace(recipe, arch=arch or recipe.arch)
    recipe = at_canvas(recipe, paper.CANVAS if device == "cuda" and survey.short_side >= DETAIL else paper.CANVAS // 2)
    most = max(8, survey.images // 8 // 8 * 8)  # eight steps an epoch, or the queue is one batch or two
    return at_batch(recipe, min(BATCHES[device], most))


def make_plan(survey: Survey, recipe: Recipe, trial: Trial, *, hours: float, data: Path, out: Path) -> Plan:
    """Queue, epochs and cache for the recipe that was tried, with what each costs; `hours` is the longest run wanted."""
    recipe = at_batch(recipe, trial.batch) if trial.batch != recipe.batch else recipe
    recipe, queue = _queue(recipe, survey)
    recipe, length = _epochs(recipe, survey, trial, hours)
    cache_gib, cache = _cache(recipe, survey, trial)
    total = _hours(recipe, survey, trial)
    words = ["insloc", "pretrain", "--data", str(data), "--out", str(out), "--recipe", recipe.name, "--arch", recipe.arch]
    words += ["--canvas", str(recipe.canvas), "--batch", str(recipe.batch), "--queue", str(recipe.queue)]
    words += ["--lr", f"{recipe.learning_rate:g}", "--epochs", str(recipe.epochs)]
    words += ["--cache-gib", f"{cache_gib:g}", "--device", trial.device, "--strict"]
    choices = (*_network(recipe, survey, trial, total), queue, _batch(recipe, trial), length, _worker(trial), cache)
    return Plan(
        recipe=recipe,
        hours=total,
        choices=choices,
        warnings=_warnings(recipe, survey, trial, hours),
        command=shlex.join(words),
    )


def _hours(recipe: Recipe, survey: Survey, trial: Trial) -> float:
    return recipe.epochs * steps_per_epoch(survey.images, recipe.batch) * trial.loop_s / 3600


def _span(hours: float) -> str:
    """Hours as a person says them."""
    if hours >= 0.1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.2g} s"


def _network(recipe: Recipe, survey: Survey, trial: Trial, total: float) -> tuple[Choice, ...]:
    other = paper.CANVAS if recipe.canvas < paper.CANVAS else paper.CANVAS // 2
    times = (other / recipe.canvas) ** 2
    seen = f"images have a median short side of {survey.short_side} px"
    if survey.short_side < DETAIL:
        reason = f"{seen}: a larger canvas would show no more"
    else:
        reason = f"{seen}: " + (
            "a smaller canvas would lose detail" if other < recipe.canvas else "more than a CPU can train on"
        )
    return (
        Choice(
            name="recipe",
            value=f"{recipe.name}, {recipe.arch}",
            reason=f"{survey.images:,} images on {trial.device}, where it does {trial.batch / trial.loop_s:,.1f} images/s",
            price=f"{_span(total)} in all",
        ),
        Choice(
            name="canvas",
            value=f"{recipe.canvas} px",
            reason=reason,
            price=f"{other} px: about {_span(total * times)}",
        ),
    )


def _queue(recipe: Recipe, survey: Survey) -> tuple[Recipe, Choice]:
    most = max(recipe.batch, int(survey.images * QUEUE_SHARE) // recipe.batch * recipe.batch)
    recipe = dataclasses.replace(recipe, queue=min(recipe.queue, most))
    recipe, _ = fit_to_data(recipe, survey.images)
    share = recipe.queue / survey.images
    # A query's own key of the epoch before is still queued if its two places in the shuffled order lie close enough.
    own = min(1.0, share) ** 2 / 2
    return recipe, Choice(
        name="queue",
        value=f"{recipe.queue:,} keys",
        reason=f"{share:.1%} of the set (a quarter at most): {own:.1%} of the queries meet their own older key as a negative",
        price="none in time",
    )


def _batch(recipe: Recipe, trial: Trial) -> Choice:
    fits = ", the largest that fits into the device's memory" if trial.halved else ""
    return Choice(
        name="batch, lr",
        value=f"{recipe.batch}, {recipe.learning_rate:.4g}",
        reason=f"{recipe.bn_groups} groups with statistics of their own{fits}; the rate goes with the batch "
        f"({paper.LEARNING_RATE:g} at {paper.BATCH})",
        price=f"{trial.loop_s * 1000:,.0f} ms a step",
    )


def _epochs(recipe: Recipe, survey: Survey, trial: Trial, hours: float) -> tuple[Recipe, Choice]:
    per_epoch = steps_per_epoch(survey.images, recipe.batch)
    one = per_epoch * trial.loop_s / 3600
    wanted = min(MOST_EPOCHS, max(paper.EPOCHS, -(-LEAST_STEPS // per_epoch)))
    epochs = max(1, min(wanted, int(hours / one)))
    if epochs < wanted:
        reason = f"as many as fit into {hours:g} h; {wanted} would be better"
    elif wanted == paper.EPOCHS:
        reason = f"as the paper's; {epochs * per_epoch:,} steps"
    else:
        reason = f"so few images need more passes to come to {epochs * per_epoch:,} steps"
    choice = Choice(
        name="epochs", value=str(epochs), reason=reason, price=f"{_span(one)} each; {wanted} in {_span(wanted * one)}"
    )
    return dataclasses.replace(recipe, epochs=epochs), choice


def _worker(trial: Trial) -> Choice:
    wait = max(0.0, trial.loop_s - trial.step_s) / trial.loop_s
    return Choice(
        name="workers",
        value="1 thread",
        reason=f"makes a batch in {trial.make_s * 1000:,.0f} ms while a step takes {trial.step_s * 1000:,.0f} ms",
        price=f"{wait:.0%} of the time is waiting for data" if wait > 0.01 else "none: data are ready in time",
    )


def _cache(recipe: Recipe, survey: Survey, trial: Trial) -> tuple[float, Choice]:
    """GiB, and why."""
    square = CHANNELS * recipe.canvas**2
    need = survey.images * (survey.bytes_each(recipe.canvas) + square) * 1.1
    free = survey.free_bytes * CACHE_SHARE
    decoding = survey.images * survey.decode_s / 3600
    gib = max(0.1, -(-min(need, free) // (GIB / 10)) / 10)
    if need <= free:
        room = f"{survey.free_bytes / GIB:.1f} GiB are free"
        reason = f"holds all images, reduced to a short side of {SHORT_SIDES * recipe.canvas} px; {room}"
        price = f"{_span(decoding)} of decoding once"
    else:
        reason = f"half of the free memory; all images need {need / GIB:,.1f} GiB"
        reason += ". Backgrounds then come from the images seen last"
        price = f"{_span(decoding * (1 - free / need))} of decoding each epoch, beside the steps"
    return gib, Choice(name="cache", value=f"{gib:g} GiB", reason=reason, price=price)


def _warnings(recipe: Recipe, survey: Survey, trial: Trial, hours: float) -> tuple[str, ...]:
    found = scene_warnings(survey)
    if survey.unreadable:
        found.append(f"{survey.unreadable} of {survey.looked_at} sampled images can't be read; a run skips and names them")
    if survey.images < 1000:
        found.append(
            f"{survey.images} images are few to learn from scratch: start from weights (--init resnet18.a1_in1k) and judge both"
        )
    total = _hours(recipe, survey, trial)
    if total > hours:
        found.append(
            f"one epoch takes {total:,.1f} h, longer than the {hours:g} h wanted: take fewer images or a faster device"
        )
    return tuple(found)


def scene_warnings(survey: Survey) -> list[str]:
    """Whether images look like whole scenes: by their boxes or, without any, only as far as their size says."""
    if survey.boxes is not None and survey.boxes >= SCENE:
        seen = f"these are scenes of several objects (judged by {survey.boxes:.1f} boxes an image)"
    elif survey.boxes is None and survey.short_side >= PHOTO:
        seen = (
            f"short sides of {survey.short_side} px are whole photographs, perhaps scenes of several objects (judged by size "
            "alone, which can't tell: look at some). If they are"
        )
    else:
        return []
    return [f"{seen}, and the method takes an image for ONE instance: {CUT_OUT}"]


def as_text(proposal: Plan, survey: Survey) -> str:
    """For the screen; ends with the command."""
    lines = [survey.sentence(), ""]
    for choice in proposal.choices:
        lines.append(f"{choice.name:10} {choice.value}")
        lines += [f"{'':10}   {choice.reason}", f"{'':10}   price: {choice.price}"]
    lines += ["", *(f"Warning: {warning}." for warning in proposal.warnings)]
    lines += [f"Price: about {proposal.hours:,.1f} hours. Start it:", "", proposal.command]
    return "\n".join(lines)
