"""A trained detector as a folder for torchvision: its state dict, facts, and a script that needs nothing of ours.

The weights load strictly in stock torchvision. Its pooling and anchors give other boxes than ours (contracts.md 11), so
the script puts ours in, from a copied file, and checks a stored picture; facts.json says how far stock arithmetic is off.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.ops import box_iou

from insloc_eval.detection.batches import at_size
from insloc_eval.detection.build import build_detector
from insloc_eval.detection.network import pooling, stock
from insloc_eval.detection.network.body import PYRAMID_STRIDES
from insloc_eval.detection.network.heads import EXTRA_NORM
from insloc_eval.detection.resume import trained_weights
from insloc_eval.detection.split import load_detection_split
from insloc_eval.detection.to_onnx import onnx_bytes
from insloc_eval.protocols.detection import RECORDS, SCALED, Detection
from insloc_eval.store import load_result
from insloc_hub import paper
from insloc_hub.checkpoints.names import ARCHS
from insloc_hub.errors import BadData, InslocError
from insloc_hub.files import check_writable, write_bytes, write_json, write_text, write_whole
from insloc_hub.models.create import create_model
from insloc_hub.shapes import UInt8

SCHEMA = 1
WEIGHTS, FACTS, EXAMPLE, SCRIPT = "detector.safetensors", "facts.json", "example.safetensors", "load.py"
ONNX = "detector.onnx"
IMPORT = "from insloc_eval.detection.network.pooling import"
LOAD = '''"""Load the detector of this folder: torchvision, safetensors, and the two files beside."""

import json
from pathlib import Path

from safetensors.torch import load_file
from stock import check, install, stock_detector

HERE = Path(__file__).parent
facts = json.loads((HERE / "facts.json").read_text(encoding="utf-8"))
detector = stock_detector(facts)
detector.load_state_dict(load_file(HERE / "detector.safetensors"), strict=True)
install(detector, facts)  # without this line: stock arithmetic, other boxes
check(detector, load_file(HERE / "example.safetensors"))
print("loaded:", facts["protocol"], "on", facts["arch"], "finds", ", ".join(facts["classes"]))
'''


def export_record(record: Path, data: Path, out: Path, *, onnx: bool = False) -> dict[str, Any]:
    """The detector that a record of `insloc-eval run` scored -> a folder; its facts. `data` names its classes and one picture.

    BadData: no record of a detector, other data, or a training that is not finished. BadRun: it is gone. InslocError: no
    ResNet of torchvision's.
    """
    result = load_result(record)
    protocol = next((one for one in RECORDS if one.title == result.protocol.removesuffix(SCALED)), None)
    if protocol is None:
        raise BadData(record, f"is of {result.protocol}, which trains no detector")
    check_arch(result.model.arch)
    state, finished = trained_weights(record.with_suffix(""))
    if not finished:
        raise BadData(record, "its detector's training is not finished; the command that began it goes on with it")
    split = load_detection_split(data, protocol)
    kinds = len(state["roi_heads.box_predictor.cls_score.bias"]) - 1
    if len(split.classes) != kinds:
        raise BadData(data, f"has {len(split.classes)} classes, the detector {kinds}; give the data that it was trained on")
    norm = any(EXTRA_NORM in name or name.startswith("roi_heads.box_head.norm.") for name in state)
    protocol = replace(protocol, extra_norm=norm, init_parts="trunk")
    detector = build_detector(protocol, create_model(result.model.spec), classes=kinds, seed=0)
    detector.load_state_dict(state)
    picture = split.ask[0].load()
    arch, classes = result.model.arch, split.classes
    return export_detector(detector, protocol, arch=arch, classes=classes, image=picture, out=out, onnx=onnx)


def check_arch(arch: str) -> None:
    """InslocError: torchvision has no network of these names."""
    if arch not in ARCHS:
        raise InslocError(
            f"{arch}: torchvision has no such network, so its detector can't be loaded there; it has {', '.join(ARCHS)}"
        )


def export_detector(
    detector: nn.Module,
    protocol: Detection,
    *,
    arch: str,
    classes: Sequence[str],
    image: UInt8[Tensor, "3 h w"],
    out: Path,
    onnx: bool = False,
) -> dict[str, Any]:
    """Write OUT with weights, facts, example and script; the facts. It is loaded back by the script's own functions first.

    With `onnx` the detector for pictures of the size of `image` too. Leaves the detector in evaluation mode. InslocError: no
    ResNet of torchvision's, or onnxruntime finds other boxes; CannotWrite.
    """
    check_arch(arch)
    check_writable(out)
    detector = detector.cpu().eval()
    weights = {name: tensor.contiguous() for name, tensor in detector.state_dict().items()}
    picture, _ = at_size(image, protocol.test_short_px, protocol.longest_px)
    with torch.inference_mode():
        found = detector([picture])[0]
    facts = facts_of(detector, protocol, arch, classes)
    loaded = stock.stock_detector(facts)
    loaded.load_state_dict(weights, strict=True)
    example = {"image": picture.contiguous(), **{name: found[name].clone() for name in ("boxes", "scores", "labels")}}
    facts["stock_arithmetic"] = without_ours(loaded, example)
    stock.install(loaded, facts)
    stock.check(loaded, example)
    if onnx:
        facts["onnx_input"] = [*picture.shape]
        data = onnx_bytes(detector, picture)
        write_bytes(out / ONNX, data)
    write_whole(out / WEIGHTS, lambda part: save_file(weights, part))
    write_whole(out / EXAMPLE, lambda part: save_file(example, part))
    write_json(out / FACTS, facts)
    write_text(out / "pooling.py", inspect.getsource(pooling))
    write_text(out / "stock.py", inspect.getsource(stock).replace(IMPORT, "from pooling import"))
    write_text(out / SCRIPT, LOAD)
    return facts


def facts_of(detector: nn.Module, protocol: Detection, arch: str, classes: Sequence[str]) -> dict[str, Any]:
    """What stock.py builds from, and what a person wants to know."""
    transform: Any = detector.transform
    c4 = protocol.variant == "c4"
    levels = {name: stride for name, stride in PYRAMID_STRIDES.items() if name != "pool"}
    return {
        "schema": SCHEMA,
        "protocol": protocol.title,
        "arch": arch,
        "variant": protocol.variant,
        "mask": protocol.mask,
        "extra_norm": protocol.extra_norm,
        "classes": list(classes),
        "kinds": len(classes),
        "short_px": protocol.test_short_px,
        "longest_px": protocol.longest_px,
        "mean": list(transform.image_mean),
        "std": list(transform.image_std),
        "input": "RGB in 0..1, shorter side at short_px but the longer at most longest_px, antialiased; label 1 is classes[0]",
        "anchor_sizes": [list(protocol.anchor_sizes)] if c4 else [[size] for size in protocol.anchor_sizes],
        "anchor_ratios": list(protocol.anchor_ratios),
        "anchor_strides": [paper.C4_STRIDE] if c4 else list(PYRAMID_STRIDES.values()),
        "pool_strides": {"0": paper.C4_STRIDE} if c4 else levels,
        "box_grid": paper.C4_ROI_SIZE if c4 else paper.FPN_ROI_SIZE,
        "counts": {
            "rpn_pre_nms_top_n_test": protocol.rpn_pre_test,
            "rpn_post_nms_top_n_test": protocol.rpn_post_test,
            "rpn_nms_thresh": protocol.rpn_nms,
            "box_score_thresh": protocol.score_floor,
            "box_nms_thresh": protocol.test_nms,
            "box_detections_per_img": protocol.most_detections,
            "bbox_reg_weights": list(protocol.box_weights),
        },
    }


@torch.inference_mode()
def without_ours(loaded: nn.Module, example: dict[str, Tensor]) -> dict[str, Any]:
    """What torchvision's own pooling and anchors find in the example, beside what it should be."""
    found = loaded([example["image"].float() / 255])[0]["boxes"]
    best = box_iou(example["boxes"], found).amax(dim=1) if len(found) and len(example["boxes"]) else torch.zeros(0)
    return {
        "note": "torchvision's pooling and anchors are not those it was trained with: their boxes are not this detector's",
        "boxes": len(found),
        "boxes_with_ours": len(example["boxes"]),
        "mean_iou_with_ours": round(best.mean().item(), 4) if len(best) else None,
    }
