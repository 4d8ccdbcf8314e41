"""Similarity maps of a few validation images: one box each, random network beside the trained one."""

from pathlib import Path

import torch
from PIL import Image

from insloc_hub.boxes.means import region_means
from insloc_hub.data.decode import read
from insloc_hub.demo import world
from insloc_hub.demo.pictures import GAP, heat_row, similarity
from insloc_hub.models.extractor import Extractor, load

STRIDE = 16
INPUT_PX = 256  # a 16 x 16 map: coarse, but something to see
ROWS = 3


def heat_sheet(folder: Path, facts: world.WorldFacts, specs: list[str]) -> Image.Image:
    """A row per image: the image with the box of its main object, then the similarity map of each spec's network."""
    extractors = [load(spec, device="cpu") for spec in specs]
    step = len(facts.classes) // ROWS  # images of different classes
    rows: list[Image.Image] = []
    for number, (key, picture) in enumerate(world.pictures(facts, "val")):
        if number % step or len(rows) == ROWS:
            continue
        image = read(folder / "val" / key)
        box = torch.from_numpy(picture.boxes[:1])
        heats = [one_heat(extractor, image, box) for extractor in extractors]
        rows.append(heat_row(image, picture.boxes[0].tolist(), heats))
    sheet = Image.new("RGB", (rows[0].width, len(rows) * (rows[0].height + GAP) - GAP), (255, 255, 255))
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * (row.height + GAP)))
    return sheet


def one_heat(extractor: Extractor, image: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """Cosine of the box's region vector with every cell of the stride-16 map, [h w]."""
    inputs, affine = extractor.prepare(image, extractor.transform("whole", INPUT_PX))
    maps = extractor.forward(inputs[None], [STRIDE], pooled=False).maps[STRIDE].cpu()
    region = region_means(maps, [affine.boxes(box)], 1 / STRIDE)[0][0]
    return similarity(region, maps[0])
