"""Frozen features of a set of images, computed once with the house's decoder, transform and pooling.

Images are decoded by a few threads ahead of the network. Every input of a set has the same size (`whole`), so batches
are plain slices. The weights are hashed again at the end: a judge that changed what it judges must not go unnoticed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from insloc_hub.boxes.means import region_means
from insloc_hub.data.folder import Sample, read_sample
from insloc_hub.errors import BadImage, NotFinite
from insloc_hub.files import digest
from insloc_hub.models.create import weights_digest
from insloc_hub.models.extractor import Extractor
from insloc_hub.progress import track
from insloc_hub.shapes import Float

BATCH = 64
DECODERS = 2  # threads: they leave Python's lock while they decode and resize
AHEAD = 4 * BATCH  # decoded inputs that wait at most

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """What is computed of each image; its hash is part of the cache key (contracts.md 7)."""

    transform: str
    size_px: int
    map: str
    """pooled: the model's own vector; last: its deepest map."""
    pooling: str
    """model, max, or grid-G/roialign-B/mean: one vector for each cell of a G x G grid."""
    grid: int = 0
    bins: int = 0
    head: str = "none"
    dtype: str
    """Arithmetic of the forward; features are float32 always."""
    normalisation: tuple[float, ...]
    """Mean and standard deviation of the input, as the model's card has them."""

    @property
    def hash(self) -> str:
        """Hex digest of all fields."""
        return digest(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureTable:
    """Features of the images that could be read, in key order."""

    keys: tuple[str, ...]
    values: Float[Tensor, "n ..."]
    skipped: dict[str, str] = field(default_factory=dict)
    """Key -> why it has no features."""


def feature_spec(
    extractor: Extractor,
    transform: str,
    size_px: int,
    *,
    map: str,
    pooling: str,
    grid: int = 0,
    bins: int = 0,
    head: str = "none",
) -> FeatureSpec:
    """What is computed, with this network's arithmetic and normalisation."""
    return FeatureSpec(
        transform=transform,
        size_px=size_px,
        map=map,
        pooling=pooling,
        grid=grid,
        bins=bins,
        head=head,
        dtype=extractor.precision,
        normalisation=(*extractor.facts.mean, *extractor.facts.std),
    )


def pooled_spec(extractor: Extractor, transform: str, size_px: int) -> FeatureSpec:
    """The model's own whole-image vector."""
    return feature_spec(extractor, transform, size_px, map="pooled", pooling="model")


def grid_spec(extractor: Extractor, transform: str, size_px: int, grid: int, bins: int) -> FeatureSpec:
    """A RoIAlign mean of each of grid x grid cells of the last map."""
    pooling = f"grid-{grid}/roialign-{bins}/mean"
    return feature_spec(extractor, transform, size_px, map="last", pooling=pooling, grid=grid, bins=bins)


def max_spec(extractor: Extractor, transform: str, size_px: int) -> FeatureSpec:
    """The maximum of each channel of the last map."""
    return feature_spec(extractor, transform, size_px, map="last", pooling="max")


def extract(extractor: Extractor, samples: Sequence[Sample], spec: FeatureSpec, label: str) -> FeatureTable:
    """Compute features of every image that can be read. NotFinite: a network that gives no numbers."""
    transform = extractor.transform(spec.transform, spec.size_px)
    return gather(extractor, samples, label, lambda image: transform(image)[0], lambda inputs: pool(extractor, inputs, spec))


def gather(
    extractor: Extractor,
    samples: Sequence[Sample],
    label: str,
    shape: Callable[[Tensor], Tensor],
    pool: Callable[[Tensor], Tensor],
    batch_size: int = BATCH,
) -> FeatureTable:
    """`pool` of batches of what `shape` makes of each image, in the order of the samples.

    `shape` may refuse an image with a BadImage, which is then skipped and named. NotFinite.
    """
    keys: list[str] = []
    blocks: list[Tensor] = []
    skipped: dict[str, str] = {}
    with track(label, len(samples)) as progress:
        for batch in batches(decoded(samples, shape, 4 * batch_size), batch_size):
            good = [(sample, image) for sample, image in batch if isinstance(image, Tensor)]
            skipped |= {sample.key: reason(sample, error) for sample, error in batch if isinstance(error, BadImage)}
            if good:
                values = pool(torch.stack([image for _, image in good]))
                check_finite(extractor, values, [sample.key for sample, _ in good])
                keys += [sample.key for sample, _ in good]
                blocks.append(values.cpu())
            progress.advance(len(batch))
    check_frozen(extractor)
    return FeatureTable(keys=tuple(keys), values=torch.cat(blocks) if blocks else torch.zeros(0, 1), skipped=skipped)


def pool(extractor: Extractor, inputs: Float[Tensor, "b 3 s s"], spec: FeatureSpec) -> Float[Tensor, "b ..."]:
    """One forward of a batch and the pooling that `spec` names."""
    if spec.map == "pooled":
        vectors = extractor.forward(inputs, [], pooled=True).pooled
        assert vectors is not None
        return vectors
    stride = max(extractor.channels)
    maps = extractor.forward(inputs, [stride], pooled=False).maps[stride]
    if spec.pooling == "max":
        return maps.amax(dim=(2, 3))
    cells = grid_cells(spec.grid, spec.size_px).to(maps)
    return torch.stack(region_means(maps, [cells] * len(maps), 1 / stride, bins=spec.bins))


def grid_cells(grid: int, size_px: float) -> Float[Tensor, "n 4"]:
    """XYXY of grid x grid equal cells, row by row (paper.md D.1: cell (r, c) has index grid r + c).

    >>> grid_cells(3, 9)[5].tolist()
    [6.0, 3.0, 9.0, 6.0]
    """
    edges = torch.arange(grid + 1, dtype=torch.float64) * size_px / grid
    y1, x1 = torch.meshgrid(edges[:-1], edges[:-1], indexing="ij")
    y2, x2 = torch.meshgrid(edges[1:], edges[1:], indexing="ij")
    return torch.stack([x1, y1, x2, y2], dim=2).reshape(-1, 4).float()


def decoded(
    samples: Sequence[Sample], shape: Callable[[Tensor], T], ahead: int = AHEAD
) -> Iterator[tuple[Sample, T | BadImage]]:
    """Every sample with `shape` of its pixels, or with the error of an image that can't be read; in order.

    At most `ahead` of them wait.
    """

    def one(sample: Sample) -> T | BadImage:
        try:
            return shape(read_sample(sample))
        except BadImage as error:
            return error

    pool_of_threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
    waiting: deque[tuple[Sample, Future[T | BadImage]]] = deque()
    try:
        for sample in samples:
            waiting.append((sample, pool_of_threads.submit(one, sample)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool_of_threads.shutdown(cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Let torch use one thread an operation inside, and give the number it used: that many images go side by side.

    For many small pieces of work (a patch of 40 px, a fit of some thousand rows): threads that wait for each other at
    every step take ten times as long where the cores are busy. The answers then do not depend on the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def batches(items: Iterator[T], size: int = BATCH) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter.

    >>> list(batches(iter(range(5)), 2))
    [[0, 1], [2, 3], [4]]
    """
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def reason(sample: Sample, error: BadImage) -> str:
    """Why an image is unusable, without the folder it lies in: records travel."""
    return str(error).removeprefix(f"{sample.where}: ")


def check_finite(extractor: Extractor, values: Tensor, keys: list[str]) -> None:
    """NotFinite: names the first image whose features are no numbers."""
    bad = (~torch.isfinite(values.flatten(1)).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise NotFinite(
            f"model {extractor.spec!r} gives NaN or infinite features for {keys[bad[0]]}; "
            "its weights are damaged, or its training diverged"
        )


def check_frozen(extractor: Extractor) -> None:
    """RuntimeError: the network is not the one it was: our bug, since it is in eval mode without gradients."""
    if extractor.model.training or weights_digest(extractor.model) != extractor.sha256:
        raise RuntimeError(f"the weights of {extractor.spec} changed while its features were computed")
