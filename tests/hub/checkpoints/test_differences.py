"""What differs is named by the mistake that makes it, and only where it fits exactly."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from insloc_hub.checkpoints.differences import differences

Tensors = dict[str, Tensor]
NAME = "layer1.0.conv1.weight"
SQUARE = torch.arange(36.0).reshape(2, 2, 3, 3) + 1
A: Tensors = {
    NAME: SQUARE,
    "conv1.weight": torch.rand(4, 3, 7, 7),
    "bn1.weight": torch.tensor([0.5, 2.0, 3.0]),
    "other": SQUARE * 7 + 3,
}

KINDS: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
    (NAME, "of the opposite sign", lambda t: -t),
    (NAME, "transposed (output and input channels)", lambda t: t.transpose(0, 1)),
    (NAME, "transposed (rows and columns)", lambda t: t.transpose(2, 3)),
    (NAME, "in another tensor's place", lambda t: A["other"]),
    (NAME, "scaled by one factor", lambda t: t * 1.5),
    (NAME, "scaled by channel", lambda t: t * torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1)),
    (NAME, "of other values", lambda t: t + 1),
    (NAME, "not finite", lambda t: t / 0),
    (NAME, "float16 instead of float32", lambda t: t.half()),
    (NAME, "of another shape", lambda t: t[:1]),
    (NAME, "of the other encoder (momentum twin)", lambda t: t + 5),
    ("conv1.weight", "with red and blue swapped (BGR)", lambda t: t.flip(1)),
    ("bn1.weight", "at their initial value", torch.ones_like),
    ("bn1.weight", "scaled by one factor", lambda t: t * 1.001),
    ("bn1.weight", "of other values", lambda t: t.flip(0)),
]


@pytest.mark.parametrize(("name", "kind", "change"), KINDS, ids=[f"{kind}-{name}" for name, kind, _ in KINDS])
def test_each_mistake_has_its_name(name: str, kind: str, change: Callable[[Tensor], Tensor]) -> None:
    b = A | {name: change(A[name])}
    assert differences(A, b, {NAME: SQUARE + 5}) == {kind: [name]}


def test_equal_networks_differ_in_nothing_and_counters_do_not_count() -> None:
    assert differences({}, {}, {}) == {}
    assert differences(A, dict(A), {}) == {}
    counted = {"bn1.num_batches_tracked": torch.tensor(1)}
    assert differences(A | counted, A | {"bn1.num_batches_tracked": torch.tensor(2)}, {}) == {}
    assert differences(A, {"another": SQUARE}, {}) == {}  # what only one of them has is another question
