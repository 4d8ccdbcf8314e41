"""A sheet of test pictures with what a detector found in them: objects in white, detections in colour with class and score."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from insloc_eval.detection.data import Detections, Sample
from insloc_hub.files import write_whole

PICTURES = 6
ACROSS = 3
CELL_PX = 320  # a picture's longer side
LEAST_SCORE = 0.3
MOST = 20  # detections a picture that are drawn, the best ones
COLOURS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6")  # by class, in turn


def write_sheet(path: Path, samples: Sequence[Sample], found: Sequence[Detections], classes: Sequence[str]) -> None:
    """Write pictures spread evenly over `samples` as a JPEG. BadImage, CannotWrite."""
    count = min(PICTURES, len(samples))
    chosen = [number * len(samples) // count for number in range(count)]
    cells = [draw(samples[number], found[number], classes) for number in chosen]
    sheet = Image.new("RGB", (CELL_PX * min(ACROSS, count), CELL_PX * math.ceil(count / ACROSS)), "#202020")
    for place, cell in enumerate(cells):
        sheet.paste(cell, (CELL_PX * (place % ACROSS), CELL_PX * (place // ACROSS)))
    write_whole(path, lambda part: sheet.save(part, format="JPEG", quality=85))


def draw(sample: Sample, found: Detections, classes: Sequence[str]) -> Image.Image:
    """One picture, its longer side CELL_PX."""
    picture = Image.fromarray(sample.load().permute(1, 2, 0).contiguous().numpy())
    scale = CELL_PX / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    pen = ImageDraw.Draw(picture)
    for box in (sample.boxes * scale).tolist():
        pen.rectangle(box, outline="white", width=1)
    best = [n for n in found.scores.argsort(descending=True, stable=True).tolist()[:MOST] if found.scores[n] >= LEAST_SCORE]
    for number in reversed(best):  # the best one last, on top
        label = int(found.labels[number])
        colour = COLOURS[label % len(COLOURS)]
        x1, y1, x2, y2 = (found.boxes[number] * scale).tolist()
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        pen.text((x1 + 3, y1 + 1), f"{classes[label]} {float(found.scores[number]):.2f}", fill=colour)
    return picture
