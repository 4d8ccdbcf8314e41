"""Region features of mosaics and of the same tiles alone, on the paths that a network has (contracts.md 10).

The C4 path (RoIAlign on stride 16, the last stage, the mean) is what a C4 detector computes; region means of two maps
stand beside it. A mosaic is enlarged as a whole, a tile alone by the same factor: only the neighbours differ.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from insloc_eval.applies import need_input, need_last_stage
from insloc_eval.features import batches, check_finite, check_frozen, decoded, reason
from insloc_eval.job import Job, NotApplicable
from insloc_eval.objects import ObjectBox
from insloc_eval.protocols import Mosaic
from insloc_eval.tasks.cells import c4_vectors
from insloc_eval.tasks.mosaic_draws import Region, Sheet, regions_of
from insloc_hub import paper
from insloc_hub.boxes.means import region_means
from insloc_hub.data.folder import Sample
from insloc_hub.data.transform import normalise, resize
from insloc_hub.errors import BadImage
from insloc_hub.models.extractor import Extractor
from insloc_hub.progress import track
from insloc_hub.shapes import Float, UInt8

SHEETS = 4  # mosaics a forward: 36 tiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Paths:
    """What a network has of the three paths."""

    names: tuple[str, ...]
    """Of c4, stride32, stride16."""
    stage: nn.Module | None
    why_not_c4: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionTable:
    """The regions of a set of mosaics, row by row."""

    inside: dict[str, Float[Tensor, "n _"]]
    """Path -> features in the mosaic."""
    alone: dict[str, Float[Tensor, "n _"]]
    """Path -> features of the same boxes in the tile alone."""
    coordinates: Float[Tensor, "n 13"]
    """Box in the tile, in shares, and the tile's place as nine indicators."""
    labels: torch.Tensor
    sheet: tuple[str, ...]
    """The mosaic of each row."""
    place: tuple[int, ...]
    counts: dict[str, int]
    skipped: dict[str, str]
    """Images that could not be read: grey tiles without a region."""


def paths_of(job: Job, protocol: Mosaic) -> Paths:
    """The paths of the job's network. NotApplicable: none of the three, or it takes no such input."""
    need_input(job.extractor, job.input_px)
    need_input(job.extractor, protocol.tile * protocol.enlarge)
    maps = tuple(f"stride{s}" for s in (protocol.other_stride, protocol.stride) if s in job.extractor.channels)
    try:
        return Paths(names=("c4", *maps), stage=need_last_stage(job.extractor))
    except NotApplicable as error:
        if not maps:
            raise
        return Paths(names=maps, stage=None, why_not_c4=str(error))


def region_table(
    job: Job, protocol: Mosaic, paths: Paths, sheets: list[Sheet], boxes: Mapping[str, ObjectBox], label: str
) -> RegionTable:
    """Features of every object of the mosaics that is read out."""
    found: dict[str, dict[str, list[Tensor]]] = {where: {name: [] for name in paths.names} for where in ("inside", "alone")}
    kept: list[tuple[str, Region]] = []
    dropped: dict[str, int] = {}
    skipped: dict[str, str] = {}
    tiles = partial(_tiles, protocol, [sample for sheet in sheets for sample in sheet.tiles], skipped)
    with track(label, len(sheets), unit="mosaics") as progress:
        waiting = tiles()
        for some in batches(iter(sheets), SHEETS):
            pixels = torch.stack([torch.stack([next(waiting) for _ in sheet.tiles]) for sheet in some])
            regions = [
                [r for r in regions_of(protocol, sheet, boxes, dropped) if sheet.tiles[r.place].key not in skipped]
                for sheet in some
            ]
            both = {
                "inside": _inside(job, protocol, paths, pixels, regions),
                "alone": _alone(job, protocol, paths, pixels, regions),
            }
            for where, rows in both.items():
                for name, values in rows.items():
                    check_finite(job.extractor, values, [s.name for s, rs in zip(some, regions, strict=True) for _ in rs])
                    found[where][name].append(values.cpu())
            kept += [(sheet.name, r) for sheet, rs in zip(some, regions, strict=True) for r in rs]
            progress.advance(len(some))
    check_frozen(job.extractor)
    features = {where: {name: torch.cat(blocks) for name, blocks in rows.items() if blocks} for where, rows in found.items()}
    return RegionTable(
        inside=features["inside"],
        alone=features["alone"],
        coordinates=_coordinates(protocol, [region for _, region in kept]),
        labels=torch.tensor([region.label for _, region in kept], dtype=torch.int64),
        sheet=tuple(name for name, _ in kept),
        place=tuple(region.place for _, region in kept),
        counts={f"boxes_dropped_{rule}": n for rule, n in sorted(dropped.items())},
        skipped=skipped,
    )


def assemble(protocol: Mosaic, tiles: UInt8[Tensor, "n 3 t t"]) -> UInt8[Tensor, "3 s s"]:
    """The mosaic of grid x grid tiles, row by row, without gaps."""
    g, tile = protocol.grid, protocol.tile
    return tiles.reshape(g, g, 3, tile, tile).permute(2, 0, 3, 1, 4).reshape(3, g * tile, g * tile)


def _tiles(protocol: Mosaic, samples: list[Sample], skipped: dict[str, str]) -> Iterator[UInt8[Tensor, "3 t t"]]:
    size = (protocol.tile, protocol.tile)
    for sample, tile in decoded(samples, lambda image: resize(image, size)):
        if isinstance(tile, BadImage):
            skipped[sample.key] = reason(sample, tile)
            yield torch.full((3, *size), 128, dtype=torch.uint8)
        else:
            yield tile


def _inside(
    job: Job, protocol: Mosaic, paths: Paths, pixels: UInt8[Tensor, "b n 3 t t"], regions: list[list[Region]]
) -> dict[str, Tensor]:
    side = job.input_px
    images = torch.stack([resize(assemble(protocol, tiles), (side, side)) for tiles in pixels])
    return _paths(job.extractor, protocol, paths, images, [_boxes([r.inside for r in rs]) for rs in regions])


def _alone(
    job: Job, protocol: Mosaic, paths: Paths, pixels: UInt8[Tensor, "b n 3 t t"], regions: list[list[Region]]
) -> dict[str, Tensor]:
    side = protocol.tile * protocol.enlarge
    images = torch.stack([resize(tile, (side, side)) for tile in pixels.flatten(0, 1)])
    of_tile = [{r.place: r.alone for r in rs} for rs in regions]
    boxes = [_boxes([known[i]] if i in known else []) for known in of_tile for i in range(protocol.grid**2)]
    return _paths(job.extractor, protocol, paths, images, boxes)


@torch.inference_mode()
def _paths(
    extractor: Extractor, protocol: Mosaic, paths: Paths, images: UInt8[Tensor, "b 3 s s"], boxes: list[Tensor]
) -> dict[str, Tensor]:
    """Path -> [n d], image by image, box by box."""
    strides = sorted({paper.C4_STRIDE if name == "c4" else int(name.removeprefix("stride")) for name in paths.names})
    maps = extractor.forward(normalise(images, extractor.facts), strides, pooled=False).maps
    found = {}
    for name in paths.names:
        if name == "c4":
            assert paths.stage is not None
            found[name] = c4_vectors(extractor, paths.stage, maps[paper.C4_STRIDE], boxes, protocol.roi_size)
        else:
            stride = int(name.removeprefix("stride"))
            on_map = [one.to(maps[stride]) for one in boxes]
            found[name] = torch.cat(region_means(maps[stride], on_map, 1 / stride, bins=protocol.bins))
    return found


def _boxes(rows: list[tuple[float, float, float, float]]) -> Float[Tensor, "n 4"]:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def _coordinates(protocol: Mosaic, regions: list[Region]) -> Float[Tensor, "n 13"]:
    boxes = _boxes([r.alone for r in regions]) / (protocol.tile * protocol.enlarge)
    places = torch.from_numpy(np.eye(protocol.grid**2, dtype=np.float32)[[r.place for r in regions]])
    return torch.cat([boxes, places.reshape(-1, protocol.grid**2)], dim=1)
