"""48 linear heads in one pass (insloc_eval.sweep) against 48 separate fits of the same schedule with torch's own parts.

    python benchmarks/sweep.py

512 dimensions, 200 classes, 1,024 rows a step, tensors in memory, on the GPU if there is one. A separate fit is nn.Linear,
cross_entropy, SGD with momentum and weight decay, cosine; both see the same rows in the same order, and their weights are
compared before anything is timed. Beside it: the bound that matrix products alone set (the two products of each step, in
one piece against 48), the seconds that extracting features took, those of the sweep's heads at the full schedule
(extrapolated from the timed steps), and of ONE scikit-learn LogisticRegression fit on the same features.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from insloc_eval.protocols.linear import LINEAR_SWEEP
from insloc_eval.sweep import batches_of, cosine, grid, steps_of, train_heads
from insloc_hub.models.extractor import load

DIMENSIONS, CLASSES, ROWS, BATCH = 512, 200, 10_000, 1024
THREADS = 1  # on a shared machine two wait for each other, most of all in 48 small fits: one is the fairer measure
STEPS = 4  # of one timed repeat
REPEATS = 7
REACH = 3.0
IMAGES = 256  # of the timed extraction, 128 px
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROTOCOL = replace(
    LINEAR_SWEEP,
    poolings=("model",),
    weight_decays=(0.0, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3),
    batch=BATCH,
    rows_seen=STEPS * BATCH,
    checks=1,
)


def main() -> None:
    """Compare, time, print one JSON line."""
    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=generator).to(DEVICE)
    rows = torch.randn(ROWS, DIMENSIONS, generator=generator).to(DEVICE)
    rows += 0.15 * torch.randn(CLASSES, DIMENSIONS, generator=generator).to(DEVICE)[labels]
    ones = pad(rows, (0, 1), value=1.0)[None]
    compare(rows, ones, labels)
    times = np.array(
        [[seconds(lambda: together(ones, labels)), seconds(lambda: one_by_one(rows, labels))] for _ in range(REPEATS)]
    )
    bound = np.array([[seconds(lambda: products(rows, 1)), seconds(lambda: products(rows, 48))] for _ in range(REPEATS)])
    print(f"matrix products alone: 48 heads in one piece {ratio(bound):.2f} x as fast as one by one")
    most = float(np.median(times[:, 1]) / np.median(bound[:, 0]))
    print(f"the bound by matrix products alone: {most:.2f} x, if all else cost nothing")
    full = steps_of(10**6, LINEAR_SWEEP)
    print(f"48 heads, {full} steps: {np.median(times[:, 0]) / STEPS * full:.0f} s (from {STEPS} steps)")
    print(f"48 heads one by one, {full} steps: {np.median(times[:, 1]) / STEPS * full:.0f} s (from {STEPS} steps)")
    print(f"extraction of {ROWS} images at 128 px, resnet18: {extraction() * ROWS / IMAGES:.0f} s (from {IMAGES})")
    print(f"ONE LogisticRegression fit of scikit-learn, {ROWS} rows: {one_fit(rows, labels):.0f} s")
    print(json.dumps(line(times)))


def together(ones: Tensor, labels: Tensor) -> Tensor:
    """All heads by the sweep."""
    *_, (_, weights) = train_heads(ones, labels, CLASSES, PROTOCOL, seed=0)
    return weights


def one_by_one(rows: Tensor, labels: Tensor) -> list[nn.Linear]:
    """Each head by itself, the ordinary way."""
    return [fit(rows, labels, rate, decay) for rate, decay in grid(PROTOCOL)]


def fit(rows: Tensor, labels: Tensor, rate: float, decay: float) -> nn.Linear:
    """One head."""
    head = nn.Linear(DIMENSIONS, CLASSES, device=DEVICE)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    solver = torch.optim.SGD(head.parameters(), lr=rate, momentum=PROTOCOL.momentum, weight_decay=decay)
    for step, at in enumerate(batches_of(ROWS, BATCH, STEPS, seed=0)):
        solver.param_groups[0]["lr"] = rate * BATCH / 256 * cosine(step, STEPS)
        at = at.to(DEVICE)
        solver.zero_grad()
        cross_entropy(head(rows[at]), labels[at]).backward()
        solver.step()
    return head


def compare(rows: Tensor, ones: Tensor, labels: Tensor) -> None:
    """SystemExit: a head of the sweep is not the one that is trained alone."""
    weights = together(ones, labels)[0]
    for number, (rate, decay) in enumerate(grid(PROTOCOL)):
        alone = fit(rows, labels, rate, decay).weight.detach()
        ours = weights[:-1, number * CLASSES : (number + 1) * CLASSES].T
        error = float((ours - alone).abs().max() / alone.abs().max())
        if error > 1e-4:
            raise SystemExit(f"lr {rate}, weight decay {decay}: the two heads differ by {error} of the largest weight")


def products(rows: Tensor, pieces: int) -> None:
    """The two products of each step for 48 heads, in `pieces` pieces, and nothing else."""
    x = rows[:BATCH]
    weights = torch.zeros(DIMENSIONS, 48 // pieces * CLASSES, device=DEVICE)
    error = torch.zeros(BATCH, 48 // pieces * CLASSES, device=DEVICE)
    for _ in range(STEPS * pieces):
        torch.mm(x, weights)
        torch.mm(x.T, error)


def extraction() -> float:
    """Seconds of a frozen resnet18 on IMAGES prepared inputs."""
    extractor = load("random:resnet18", str(DEVICE))
    inputs = torch.randn(64, 3, 128, 128)
    extractor.forward(inputs, [], pooled=True)
    return seconds(lambda: [extractor.forward(inputs, [], pooled=True) for _ in range(IMAGES // 64)])


def one_fit(rows: Tensor, labels: Tensor) -> float:
    """Seconds of one L-BFGS fit at C 1, at most 100 steps."""
    x, y = rows.cpu().numpy(), labels.cpu().numpy()
    return seconds(lambda: LogisticRegression(max_iter=100).fit(x, y))


def ratio(times: np.ndarray) -> float:
    """Median of the second column over the first."""
    return float(np.median(times[:, 1] / times[:, 0]))


def line(times: np.ndarray) -> dict[str, object]:
    """The facts for a JSON line; the interval is a bootstrap of the repeats' median ratio."""
    ratios = times[:, 1] / times[:, 0]
    draws = np.random.default_rng(0).choice(ratios, (2000, REPEATS))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{platform.machine()}, {THREADS} thread"
    return {
        "benchmark": "sweep",
        "case": f"48 heads, {DIMENSIONS} dimensions, {CLASSES} classes, {BATCH} rows a step",
        "ours": round(STEPS / float(np.median(times[:, 0])), 2),
        "other": round(STEPS / float(np.median(times[:, 1])), 2),
        "unit": "steps of 48 heads/s",
        "ratio": round(float(np.median(ratios)), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
        "reach": REACH,
        "holds": bool(low >= REACH),
        "machine": f"{name}, torch {torch.__version__}",
    }


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
