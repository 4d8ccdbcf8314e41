"""What a detector finds in pictures: boxes in their own pixels, masks pasted and run-length encoded."""

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from insloc_eval.detection.batches import at_size
from insloc_eval.detection.data import Detections, Sample
from insloc_eval.protocols.detection import Detection
from insloc_hub.data.loader import prefetch
from insloc_hub.progress import Progress
from insloc_hub.shapes import Bool, Float, UInt8


@torch.inference_mode()
def predict(
    detector: nn.Module, samples: Sequence[Sample], protocol: Detection, progress: Progress | None, precision: str = "fp32"
) -> list[Detections]:
    """One answer per sample, in their order; each picture alone, so that none depends on its neighbours.

    Leaves the detector in evaluation mode. BadImage: a picture can't be read.
    """
    detector.eval()
    device = next(detector.parameters()).device

    def make(number: int) -> tuple[UInt8[Tensor, "3 h w"], tuple[float, float]]:
        return at_size(samples[number].load(), protocol.test_short_px, protocol.longest_px)

    found = []
    for sample, (image, scale) in zip(samples, prefetch(make, 0, len(samples)), strict=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            answer = detector([image.to(device)])[0]
        found.append(in_original(answer, scale, sample.size_wh))
        if progress is not None:
            progress.advance()
    return found


def in_original(answer: dict[str, Tensor], scale: tuple[float, float], size_wh: tuple[int, int]) -> Detections:
    """A detector's answer in network pixels -> pixels of the original, clipped to it; labels from 0, on the CPU."""
    w, h = size_wh
    boxes = answer["boxes"].float() / answer["boxes"].new_tensor([*scale, *scale])
    boxes = torch.minimum(boxes, boxes.new_tensor([w, h, w, h])).clamp(min=0)
    masks = None
    if "masks" in answer:
        masks = tuple(encode(paste(one[0], box, size_wh)) for one, box in zip(answer["masks"].cpu(), boxes.cpu(), strict=True))
    labels = answer["labels"].cpu() - 1
    return Detections(boxes=boxes.cpu(), scores=answer["scores"].float().cpu(), labels=labels, masks=masks)


def paste(mask: Float[Tensor, "side side"], box: Float[Tensor, " 4"], size_wh: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Probabilities in a box -> the pixels of the original whose centre has at least half.

    Bilinear at pixel centres, zeros around, as detectron2 (torchvision rounds the box to whole pixels first).
    """
    w, h = size_wh
    x1, y1, x2, y2 = box.tolist()
    left, top, right, bottom = max(int(x1), 0), max(int(y1), 0), min(int(np.ceil(x2)), w), min(int(np.ceil(y2)), h)
    whole = torch.zeros(h, w, dtype=torch.bool)
    if left >= right or top >= bottom or x2 <= x1 or y2 <= y1:
        return whole
    x = (torch.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    values = torch.nn.functional.grid_sample(mask[None, None].float(), grid, align_corners=False)
    whole[top:bottom, left:right] = values[0, 0] >= 0.5
    return whole


def encode(pixels: Bool[Tensor, "h w"]) -> dict[str, object]:
    """COCO's run lengths, as text."""
    runs = coco_mask.encode(np.asfortranarray(pixels.numpy().astype(np.uint8)))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}
