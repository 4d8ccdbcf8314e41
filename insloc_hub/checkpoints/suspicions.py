"""What a file hides or tells about itself: signs of a damaged or half-loaded network, and what it must be fed.

A suspicion is a fact about the tensors that a trained network does not show. One bare file can't prove its preprocessing;
what is known and from where is said, and so is what is not known.
"""

import json
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from insloc_hub.checkpoints.layouts import Recognised
from insloc_hub.checkpoints.names import COUNTER, Convention
from insloc_hub.checkpoints.read import Checkpoint
from insloc_hub.paper import PIXEL_MEAN, PIXEL_STD

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head")
AUTHORS = {"Ceyuan": "the authors of InsLoc", "Yue": "the authors of SoCo", "PixPro": "the authors of PixPro"}
"""`__author__` of detectron2 pickles that were converted from torchvision-style training (compat.md 5.1, 5.7)."""
FOLDED_VARIANCE = 1e-4  # detectron2 writes 1 - 1e-5 for norms that were folded into scale and shift

Tensors = Mapping[str, Tensor]


def suspicions(tensors: Tensors, outputs: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Sentences, none for a sound network. `tensors` under our names, `outputs` a stage's activations on the probe."""
    found = [*_numbers(tensors), *_initial(tensors), *_folded(tensors), *_twice(tensors)]
    for stage, output in outputs.items():
        if not output.isfinite().all():
            found.append(f"{stage}: its output on a plain picture is not finite")
            break
        if not output.any():
            found.append(f"{stage}: its output on a plain picture is zero everywhere")
            break
    return tuple(found)


def convention_of(checkpoint: Checkpoint, recognised: Recognised) -> Convention:
    """What the network must be fed: from the file's own words where it has some, else from its layout."""
    said = recognised.layout.convention
    if checkpoint.author.startswith("insloc_hub"):
        return _usual("insloc_hub wrote this file")
    if checkpoint.author in AUTHORS and said.order == "unknown":
        return _usual(f"{AUTHORS[checkpoint.author]} wrote this file, and train so")
    style = re.search(r"style\s*=\s*['\"](pytorch|caffe)['\"]", checkpoint.config)
    if style and said.order == "unknown":
        if style[1] == "pytorch":
            return _usual("the training configuration in the file has style='pytorch'")
        why = "the training configuration in the file has style='caffe'"
        return Convention(order="BGR", mean_std="BGR mean, std 1", stride_in="1x1", why=why)
    if checkpoint.form == "folder" and checkpoint.config:
        return _from_timm(checkpoint.config, said)
    return said


def cannot_know(convention: Convention, checkpoint: Checkpoint) -> tuple[str, ...]:
    """What no look at this one file can tell."""
    lines = ["whether these are the values that their maker published: that takes a second source or a sha256"]
    if convention.stride_in == "unknown" or "can't tell" in convention.why:
        lines.append(f"channel order, mean and std, and where the stride sits ({convention.why})")
    if not checkpoint.author and checkpoint.form != "folder":
        lines.append("who made it: the file names no author")
    return tuple(lines)


def _usual(why: str) -> Convention:
    return Convention(order="RGB", mean_std="ImageNet", stride_in="3x3", why=why)


def _from_timm(config: str, said: Convention) -> Convention:
    """A folder's config.json states mean and std; other ones than ImageNet's are no convention that we name."""
    try:
        stated = json.loads(config)["pretrained_cfg"]
        same = tuple(stated["mean"]) == PIXEL_MEAN and tuple(stated["std"]) == PIXEL_STD
    except (ValueError, KeyError, TypeError):
        return said
    why = "config.json beside the weights says so"
    return Convention(order="RGB", mean_std="ImageNet" if same else "unknown", stride_in="3x3", why=why)


def _stage(ours: str) -> str:
    first = ours.split(".")[0]
    return first if first in STAGES else "stem"


def _norms(tensors: Tensors) -> list[str]:
    """Beginnings of the names of all BatchNorms."""
    return [name.removesuffix(".running_var") for name in tensors if name.endswith(".running_var")]


def _numbers(tensors: Tensors) -> list[str]:
    found = []
    for name, tensor in tensors.items():
        # The sum first: it is many times faster, and not finite if a value is not.
        if not tensor.sum().isfinite() and not tensor.isfinite().all():
            found.append(f"{name}: {int((~tensor.isfinite()).sum())} values are not finite")
        elif name.endswith("running_var") and (tensor < 0).any():
            found.append(f"{name}: a variance is negative")
        elif tensor.ndim > 1 and not tensor.any():
            found.append(f"{name}: all zeros")
    return found


def _initial(tensors: Tensors) -> list[str]:
    """Stages none of whose norms ever saw a batch."""
    by_stage: dict[str, list[bool]] = {}
    for norm in _norms(tensors):
        mean, var, bias, weight = (tensors[f"{norm}.{s}"] for s in ("running_mean", "running_var", "bias", "weight"))
        untouched = not mean.any() and bool((var == 1).all()) and not bias.any()
        # The last norm of a block may start at zero.
        by_stage.setdefault(_stage(norm), []).append(untouched and bool(((weight == 1) | (weight == 0)).all()))
    return [f"{stage}: every BatchNorm is at its initial value" for stage, all_of in by_stage.items() if all(all_of)]


def _folded(tensors: Tensors) -> list[str]:
    """Statistics that do nothing beside scales that do: a frozen network from Caffe."""
    norms = [norm for norm in _norms(tensors) if _stage(norm) not in ("neck", "head")]
    idle = all(
        not tensors[f"{n}.running_mean"].any() and bool(((tensors[f"{n}.running_var"] - 1).abs() < FOLDED_VARIANCE).all())
        for n in norms
    )
    moved = any(tensors[f"{n}.bias"].any() for n in norms)
    if not (norms and idle and moved):
        return []
    return [
        "trunk: the statistics of all norms are folded into scale and shift, as in networks that came from Caffe: these take "
        "BGR input with std 1 and have the stride in the 1x1 convolution; timm's and torchvision's ResNets differ"
    ]


def _twice(tensors: Tensors) -> list[str]:
    """Weights that stand in two places: a block copied over another."""
    seen: dict[tuple[object, ...], str] = {}
    found = []
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or name.endswith(COUNTER):
            continue
        flat = tensor.reshape(-1)
        key = (tuple(tensor.shape), *flat[:4].tolist(), *flat[-4:].tolist())
        other = seen.setdefault(key, name)
        if other != name and torch.equal(tensors[other], tensor):
            found.append(f"{name}: the same values as {other}")
    return found
