"""timm's folder around converted weights: config.json, model.safetensors, parts, README (contracts.md 5, compat.md 1.1)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from insloc_hub.checkpoints.names import part_of
from insloc_hub.checkpoints.report import account
from insloc_hub.checkpoints.verify import Loaded
from insloc_hub.checkpoints.write import to_bytes
from insloc_hub.errors import InslocError
from insloc_hub.files import write_bytes, write_json, write_text
from insloc_hub.paper import PIXEL_MEAN, PIXEL_STD

SCHEMA = 1
SIDE = 224  # what published ResNets are tested at; a converted file does not say
PARTS_FILE = "parts/fpn_head.safetensors"


def pretrained_cfg(arch: str, tag: str) -> dict[str, Any]:
    """timm's record of what a converted trunk is fed (contracts.md 4); every key is one of its PretrainedCfg."""
    stock: Any = timm.get_pretrained_cfg(arch)
    return {
        "tag": tag,
        "custom_load": False,
        "input_size": [3, SIDE, SIDE],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": list(PIXEL_MEAN),
        "std": list(PIXEL_STD),
        "num_classes": 0,
        "pool_size": [7, 7],
        "first_conv": stock.first_conv,
        "classifier": stock.classifier,
    }


def fill_folder(folder: Path, source: Loaded, tensors: Mapping[str, Tensor]) -> None:
    """Write the files of an exported folder, parts included. CannotWrite."""
    trunk = {name: tensor for name, tensor in tensors.items() if part_of(name) == "trunk"}
    parts = {name: tensor for name, tensor in tensors.items() if part_of(name) != "trunk"}
    data = to_bytes(trunk, "timm", ".safetensors")
    write_bytes(folder / "model.safetensors", data)
    digests = {}
    if parts:
        part_data = to_bytes(parts, "timm", ".safetensors")
        write_bytes(folder / PARTS_FILE, part_data)
        digests = {"fpn_head": {"file": PARTS_FILE, "sha256": hashlib.sha256(part_data).hexdigest()}}
    write_json(folder / "config.json", _config(source, hashlib.sha256(data).hexdigest(), digests))
    write_text(folder / "README.md", _readme(source))


def check_folder(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read the trunk back through plain timm, strictly. InslocError: a tensor differs."""
    state = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    trunk = {name: tensor for name, tensor in tensors.items() if part_of(name) == "trunk"}
    wrong = [name for name, tensor in trunk.items() if not torch.equal(state[name], tensor.to(state[name].dtype))]
    if wrong:
        raise InslocError(f"timm reads {len(wrong)} tensors back otherwise than they were written, e.g. {wrong[0]}")


def _config(source: Loaded, sha256: str, parts: dict[str, Any]) -> dict[str, Any]:
    known = source.recognised
    width = max(source.tensors[n].shape[0] for n in source.tensors if n.startswith("layer4.") and source.tensors[n].ndim)
    return {
        "architecture": known.arch,
        "num_classes": 0,
        "num_features": width,
        "global_pool": "avg",
        "pretrained_cfg": pretrained_cfg(known.arch, "converted"),
        "insloc": {
            "schema": SCHEMA,
            "converted_from": {
                "layout": known.layout.name,
                "encoder": known.encoder,
                "author": source.checkpoint.author,
                "account": account(source),
            },
            "sha256": sha256,
            "untrained": [],
            "parts": parts,
            "terms": "those of the file it was converted from",
        },
    }


def _readme(source: Loaded) -> str:
    known, fed = source.recognised, source.convention
    return f"""---
library_name: timm
pipeline_tag: image-feature-extraction
tags:
- timm
- image-feature-extraction
---
# {known.arch}, converted from the layout {known.layout.name}

{account(source)}.

```python
import timm
model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True)  # without pretrained=True: random weights
```

- Input: RGB, mean {list(PIXEL_MEAN)}, std {list(PIXEL_STD)}. Of the source: {fed.order}, {fed.mean_std}, stride in the
  {fed.stride_in} convolution ({fed.why}).
- Terms: those of the file it was converted from.
"""
