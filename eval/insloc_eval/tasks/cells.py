"""The features of a picture's cells, four ways (paper.md D.1): what the patches/* read-outs are given.

In context: region means of the last map, or the last stage on each cell's RoIAlign grid. Cut out: the cell alone, or the
cell in a window of its surroundings. All cuts of a picture have one size in pixels, so that the resize tells nothing.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from insloc_eval.applies import need_input, need_last_stage
from insloc_eval.cache import cached, kept
from insloc_eval.features import BATCH, FeatureTable, feature_spec, gather, grid_cells, grid_spec
from insloc_eval.job import Job
from insloc_eval.protocols import Patches, PatchesC4, PatchesCut
from insloc_hub import paper
from insloc_hub.boxes.means import region_means
from insloc_hub.data.folder import ImageSet
from insloc_hub.data.transform import normalise, resize
from insloc_hub.encoders.c4 import last_stage_vectors
from insloc_hub.errors import BadImage
from insloc_hub.models.extractor import Extractor
from insloc_hub.shapes import Float, UInt8


def cell_tables(job: Job) -> tuple[FeatureTable, FeatureTable]:
    """[n cells d] of the training and of the test images. NotApplicable: the network can't do it."""
    need_input(job.extractor, job.input_px)
    table = _maker(job)
    halves = ((job.split.train, "training"), (job.split.test, "test"))
    train, test = (table(images, f"{job.shown}: {job.protocol.name} cells, {half}") for images, half in halves)
    return train, test


def _maker(job: Job) -> Callable[[ImageSet, str], FeatureTable]:
    protocol = job.protocol
    if isinstance(protocol, PatchesC4):
        return partial(_c4_table, job, protocol, need_last_stage(job.extractor))
    if isinstance(protocol, PatchesCut):
        return partial(_cut_table, job, protocol)
    assert isinstance(protocol, Patches)
    spec = grid_spec(job.extractor, protocol.transform, job.input_px, protocol.grid, protocol.bins)
    return lambda images, label: cached(job.extractor, images, spec, job.cache, label)


def _c4_table(job: Job, protocol: PatchesC4, stage: torch.nn.Module, images: ImageSet, label: str) -> FeatureTable:
    roi_size = protocol.roi_size(job.input_px)
    transform = job.extractor.transform(protocol.transform, job.input_px)
    cells = grid_cells(protocol.grid, job.input_px)
    spec = feature_spec(
        job.extractor,
        protocol.transform,
        job.input_px,
        map="stride-16",
        pooling=f"grid-{protocol.grid}/roialign-{roi_size}/last stage/mean",
        grid=protocol.grid,
        bins=roi_size,
        head="c4",
    )

    def pool(inputs: Tensor) -> Tensor:
        maps = job.extractor.forward(inputs, [paper.C4_STRIDE], pooled=False).maps[paper.C4_STRIDE]
        return c4_vectors(job.extractor, stage, maps, [cells] * len(maps), roi_size).reshape(len(maps), len(cells), -1)

    compute = partial(gather, job.extractor, images.samples, label, lambda image: transform(image)[0], pool)
    return kept(job.extractor, images, spec, job.cache, compute)


def _cut_table(job: Job, protocol: PatchesCut, images: ImageSet, label: str) -> FeatureTable:
    extractor, size_px, number = job.extractor, job.input_px, protocol.grid**2
    spec = feature_spec(
        extractor,
        f"cuts {protocol.span} of {protocol.parts}, {protocol.transform}",
        size_px,
        map="last",
        pooling=f"inner cell/roialign-{protocol.bins}/mean",
        grid=protocol.grid,
        bins=protocol.bins,
    )

    def pool(cuts: Tensor) -> Tensor:
        flat = cuts.flatten(0, 1)
        vectors = [_inner_means(extractor, protocol, flat[i : i + BATCH], size_px) for i in range(0, len(flat), BATCH)]
        return torch.cat(vectors).reshape(len(cuts), number, -1)

    def compute() -> FeatureTable:
        return gather(extractor, images.samples, label, lambda image: cut_windows(image, protocol, size_px), pool, BATCH // 8)

    return kept(extractor, images, spec, job.cache, compute)


@torch.inference_mode()
def c4_vectors(
    extractor: Extractor,
    stage: torch.nn.Module,
    maps: Float[Tensor, "b c h w"],
    boxes: list[Float[Tensor, "_ 4"]],
    roi_size: int,
) -> Float[Tensor, "n d"]:
    """The last stage on the RoIAlign grid of each box of each stride-16 map, then the mean; float32."""
    rows = torch.cat([torch.cat([one.new_full((len(one), 1), i), one], dim=1) for i, one in enumerate(boxes)]).to(maps)
    with torch.autocast(extractor.device.type, torch.bfloat16, enabled=extractor.precision == "bf16"):
        parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        blocks = [last_stage_vectors(stage, maps, part, roi_size).float() for part in parts]
    return torch.cat(blocks) if blocks else maps.new_zeros(0, extractor.channels[max(extractor.channels)])


def cut_windows(image: UInt8[Tensor, "3 h w"], protocol: PatchesCut, size_px: int) -> UInt8[Tensor, "n 3 s s"]:
    """The windows of the asked cells, row by row, each resized to the input. BadImage: the picture is too small to cut."""
    whole = image.shape[1:]
    h, w = (side * protocol.span // protocol.parts for side in whole)
    if min(h, w) < 1:
        raise BadImage("image_too_small", f"{whole[1]} x {whole[0]} pixels can't be cut into {protocol.parts} parts")
    # Equal sizes at nearly equal steps: cells of 21, 22, 21 pixels would tell by their blur where they are from.
    last = protocol.grid - 1
    tops, lefts = ([round(i * room / last) for i in range(last + 1)] for room in (whole[0] - h, whole[1] - w))
    cuts = [image[:, y : y + h, x : x + w] for y in tops for x in lefts]
    return torch.stack([resize(one, (size_px, size_px)) for one in cuts])


def _inner_means(
    extractor: Extractor, protocol: PatchesCut, cuts: UInt8[Tensor, "b 3 s s"], size_px: int
) -> Float[Tensor, "b d"]:
    """Region mean of the cell in the middle of each window, on the last map."""
    stride = max(extractor.channels)
    maps = extractor.forward(normalise(cuts, extractor.facts), [stride], pooled=False).maps[stride]
    edge = size_px * (protocol.span // 2) / protocol.span
    box = torch.tensor([[edge, edge, size_px - edge, size_px - edge]]).to(maps)
    return torch.cat(region_means(maps, [box] * len(maps), maps.shape[-1] / size_px, bins=protocol.bins))
