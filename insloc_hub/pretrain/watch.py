"""Know when training fails: what the keys look like, and the ways to collapse by name, each with the knob to turn. [ours]

A contrast can fail with a loss that looks fine: when the queue stands still, the loss falls and every query is recognised.
So the verdicts read three measures of the keys besides the loss. All of it runs on the CPU, on copies.
"""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from insloc_hub.recipe import Recipe
from insloc_hub.shapes import Float

EVERY = 10  # steps from one measure of the keys to the next
WINDOW = 100  # steps that a verdict looks back on
PATIENCE = 400  # steps before the loss must have left its plateau: with the window inside 500
# Tried on short runs of several networks, batches, queues, temperatures and learning rates (tests/hub/pretrain/
# test_watch.py): healthy ones stay at least a factor of two away from each.
LEAST_GAIN = 0.01  # share of ln(K + 1) that the loss must be below it
LEAST_SPREAD = 0.02
LEAST_RANK = 1.5
MOST_GAP = 0.5
REACH = 0.5  # nats between the plateau and a perfect answer; with less, no gradient is worth the name


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """Of a batch of keys (unit vectors), a number per level."""

    spread: tuple[float, ...]
    """Root of their total variance: 0 when all are the same, 1 when their mean is 0."""
    rank: tuple[float, ...]
    """Effective rank: how many directions they differ in, from 1 to one less than the batch."""
    gap: tuple[float, ...]
    """Distance of their mean from that of the queue: small while the queue holds what the twin made lately."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """A collapse: `name` is one of plateau, constant, line, queue; `text` says what was seen and what to turn."""

    name: str
    text: str


def measure(keys: Float[Tensor, "b l d"], queue_mean: Float[Tensor, "l d"]) -> Measures:
    """Spread, effective rank and gap of each level."""
    mean = keys.mean(dim=0)
    centred = (keys - mean).transpose(0, 1)  # [l b d]
    return Measures(
        spread=tuple(centred.square().sum(dim=2).mean(dim=1).sqrt().tolist()),
        rank=tuple(effective_rank(vectors) for vectors in centred),
        gap=tuple((mean - queue_mean).norm(dim=1).tolist()),
    )


def effective_rank(centred: Float[Tensor, "b d"]) -> float:
    """exp of the entropy of the singular values' shares (Roy & Vetterli 2007, definition 1); 1 for equal vectors."""
    values = torch.linalg.svdvals(centred)
    shares = values / values.sum().clamp_min(1e-12)
    return float(torch.special.entr(shares).sum().exp())


class Watch:
    """Looks at every step of a run; gives each alarm once."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.plateau = math.log(recipe.queue + 1) * sum(recipe.level_weights)
        # Before the queue has been written over once, it holds random keys, which are easy to tell apart.
        self.filled = recipe.queue // recipe.batch
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.measured: deque[Measures] = deque(maxlen=WINDOW // EVERY)
        self.given: set[str] = set()

    def look(self, step: int, loss: float, measures: Measures | None) -> Alarm | None:
        """Take in what step `step` (from 1) told; an alarm if the window behind it is that of a collapse."""
        if step <= self.filled:
            return None
        self.losses.append(loss)
        if measures is not None:
            self.measured.append(measures)
        if len(self.losses) < WINDOW or len(self.measured) < WINDOW // EVERY:
            return None
        alarm = self._verdict(step)
        if alarm is None or alarm.name in self.given:
            return None
        self.given.add(alarm.name)
        return alarm

    def _verdict(self, step: int) -> Alarm | None:
        """The most telling of the alarms, since one collapse shows in several measures."""
        gap = min(self._mean("gap"))
        if gap > MOST_GAP:
            return Alarm(name="queue", text=self._queue(gap))
        if step < PATIENCE:
            return None
        spread, rank = max(self._mean("spread")), max(self._mean("rank"))
        loss = sum(self.losses) / WINDOW
        if spread < LEAST_SPREAD:
            return Alarm(name="constant", text=f"all keys are nearly the same (spread {spread:.3f} of 1). {self._rate()}")
        if rank < LEAST_RANK:
            return Alarm(name="line", text=f"the keys differ in one direction only (effective rank {rank:.1f}). {self._rate()}")
        if self.plateau - loss < LEAST_GAIN * self.plateau:
            return Alarm(name="plateau", text=self._plateau(loss))
        return None

    def _mean(self, name: str) -> list[float]:
        columns = zip(*(getattr(measures, name) for measures in self.measured), strict=True)
        return [sum(column) / len(self.measured) for column in columns]

    def _queue(self, gap: float) -> str:
        recipe = self.recipe
        return (
            f"the queue no longer holds what the key encoder makes (their means lie {gap:.2f} apart): its negatives are told "
            "by their age, and loss and accuracy look better than they are. If the queue is written at all, shorten it "
            f"(--queue, now {recipe.queue} = {self.filled} steps), or lower the learning rate (--lr, now "
            f"{recipe.learning_rate:g})"
        )

    def _plateau(self, loss: float) -> str:
        recipe = self.recipe
        seen = f"the loss {loss:.3f} stands at ln(K + 1) = {self.plateau:.3f}, that of recognising nothing"
        # A positive at cosine 1 and negatives around 0: as good as it gets.
        best = math.log1p(recipe.queue * math.exp(-1 / recipe.temperature)) * sum(recipe.level_weights)
        if self.plateau - best < REACH:
            return (
                f"{seen}. At a temperature of {recipe.temperature:g} even a perfect answer would lower it by only "
                f"{self.plateau - best:.2g}: take a recipe with one near 0.2"
            )
        return f"{seen}. {self._rate()}"

    def _rate(self) -> str:
        recipe = self.recipe
        return (
            f"Lower the learning rate (--lr, now {recipe.learning_rate:g}) by a factor of 10; if that changes nothing, look at "
            "views.png: query and key must show the same object"
        )
