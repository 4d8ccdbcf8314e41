"""Our tensors -> the bytes that each ecosystem reads (compat.md 5.3 to 5.8, 6).

What a file holds is exact; what the reader's network has besides (RPN, predictors, masks) starts fresh there, and is
listed by name so that nobody takes a warning for a success.
"""

import collections
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from insloc_hub.checkpoints.families import detectron2, mmdet, torchvision
from insloc_hub.checkpoints.layouts import OURS
from insloc_hub.checkpoints.names import Layout
from insloc_hub.errors import InslocError

Ecosystem = Literal["timm", "torchvision", "detectron2", "mmdet", "onnx"]
AUTHOR = "insloc_hub"
FED = "RGB, mean 123.675 116.28 103.53, std 58.395 57.12 57.375, stride in the 3x3 convolution"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """How an ecosystem names a bare trunk, and a detector's parts; what its detector has that no such file can hold."""

    trunk: Layout
    detector: Layout
    suffixes: tuple[str, ...]
    fresh: tuple[str, ...]
    """Beginnings of the names that stay fresh in its 4conv1fc detector with FPN."""
    hint: str
    """What the reader must set, or how to load it."""


TARGETS: dict[str, Target] = {
    "timm": Target(
        trunk=OURS,
        detector=OURS,
        suffixes=("",),
        fresh=(),
        hint="timm.create_model('local-dir:{out}', pretrained=True)",
    ),
    "torchvision": Target(
        trunk=torchvision.BARE,
        detector=torchvision.DETECTOR,
        suffixes=(".pth", ".pt", ".safetensors"),
        fresh=("rpn.head.", "roi_heads.box_predictor.", "roi_heads.mask_head.", "roi_heads.mask_predictor."),
        hint="model.load_state_dict(torch.load('{out}', weights_only=True), strict=False)",
    ),
    "detectron2": Target(
        trunk=detectron2.BARE,
        detector=detectron2.FPN,
        suffixes=(".pkl",),
        fresh=("proposal_generator.", "roi_heads.box_predictor.", "roi_heads.mask_head."),
        hint="MODEL.WEIGHTS '{out}' INPUT.FORMAT RGB MODEL.PIXEL_MEAN [123.675,116.28,103.53] "
        "MODEL.PIXEL_STD [58.395,57.12,57.375] MODEL.RESNETS.STRIDE_IN_1X1 False",
    ),
    "mmdet": Target(
        trunk=mmdet.FPN,
        detector=mmdet.FPN,
        suffixes=(".pth",),
        fresh=("rpn_head.", "roi_head.bbox_head.fc_cls.", "roi_head.bbox_head.fc_reg.", "roi_head.mask_head."),
        hint="init_cfg=dict(type='Pretrained', checkpoint='{out}', prefix='backbone.') with style='pytorch', "
        "or load_from='{out}' for a whole detector",
    ),
}
CONFIG = f"# written by {AUTHOR}: {FED}\nmodel = dict(backbone=dict(type='ResNet', style='pytorch'))"


def spell_all(tensors: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Their names -> tensors, and our names of what the layout has no place for."""
    spelled = {ours: layout.spell(ours) for ours in tensors}
    there = {theirs: tensors[ours].contiguous() for ours, theirs in spelled.items() if theirs is not None}
    return there, tuple(ours for ours, theirs in spelled.items() if theirs is None)


def to_bytes(tensors: Mapping[str, Tensor], ecosystem: str, suffix: str) -> bytes:
    """A file of `ecosystem`, in memory: a full disk then shows as an OSError when it is written, whatever the format."""
    # A tensor that is a slice of another would drag the whole of it into the file.
    own = collections.OrderedDict((name, tensor.detach().clone()) for name, tensor in tensors.items())
    if suffix == ".safetensors" or ecosystem == "timm":
        return bytes(save_safetensors(own, metadata={"format": "pt"}))
    if ecosystem == "detectron2":
        arrays = {name: tensor.numpy() for name, tensor in own.items()}
        return _for_old_numpy({"model": arrays, "__author__": AUTHOR, "matching_heuristics": True})
    content: Any = own
    if ecosystem == "mmdet":
        content = {"meta": {"config": CONFIG}, "state_dict": own}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def check_suffix(ecosystem: str, out: Path) -> None:
    """InslocError: the reader decides by the file's ending, and this one would be taken for something else."""
    wanted = TARGETS[ecosystem].suffixes
    if "" not in wanted and out.suffix not in wanted:
        raise InslocError(f"{out}: {ecosystem} reads such a file only if its name ends in {' or '.join(wanted)}; name it so")


def _for_old_numpy(content: Any) -> bytes:
    """Protocol 3, with numpy's function under the name that numpy 1 and 2 both know.

    numpy 2 calls the module `numpy._core`, which a numpy 1 of detectron2's time can't import. The name is written once, as a
    line of text before any array's bytes, so the first occurrence is it.
    """
    data = pickle.dumps(content, protocol=3)
    return data.replace(b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\n_reconstruct\n", 1)
