"""A trunk as one ONNX file: maps of stride 4 to 32 and the pooled vector, any batch and size; checked in onnxruntime.

Needs the extra `onnx`: pip install 'insloc_hub[onnx]'.
"""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from insloc_hub.checkpoints.oracle import PROBE_SIDE, activations, probe_image
from insloc_hub.checkpoints.verify import Agreement, compare, timm_trunk
from insloc_hub.errors import InslocError

NEEDED = ("onnx", "onnxruntime", "onnxscript")
OUTPUTS = ("c2", "c3", "c4", "c5", "pooled")
TOLERANCE = 1e-4  # of a stage's largest value; onnxruntime folds norms into convolutions


class _Maps(nn.Module):
    """The plain model's maps and pooled vector, by name order of OUTPUTS."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.trunk.forward_intermediates(image, indices=[1, 2, 3, 4], intermediates_only=True)  # type: ignore[operator]
        return (*maps, self.trunk.global_pool(maps[-1]))  # type: ignore[operator]


def onnx_bytes(arch: str, trunk: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> tuple[bytes, tuple[Agreement, ...]]:
    """The file and its agreement with the oracle's activations `source`, on the probe. InslocError: no extra, or it differs."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InslocError(f"ONNX needs {', '.join(missing)}: pip install 'insloc_hub[onnx]'")
    model = _Maps(timm_trunk(arch, {n: t.float() if t.is_floating_point() else t for n, t in trunk.items()})).eval()
    data = _export(model)
    agreements = compare(_pooled(source), _run(data, probe_image()))
    # A second batch and size, which a static export would refuse.
    tall = torch.cat([probe_image(160)[:, :, :, :96], probe_image(160)[:, :, :, 64:]])
    _check_within(agreements)
    _check_within(compare(_pooled(activations(trunk, image=tall)), _run(data, tall)))
    return data, agreements


def _pooled(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**{name: outputs[name] for name in OUTPUTS[:-1]}, "pooled": outputs["c5"].mean((2, 3))}


def _export(model: nn.Module) -> bytes:
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals
            path = Path(folder) / "model.onnx"
            # A batch of 2: with 1 older exporters take the batch for a constant.
            example = (torch.zeros(2, 3, PROBE_SIDE, PROBE_SIDE),)
            shapes: Any = ({0: "batch", 2: "height", 3: "width"},)
            torch.onnx.export(
                model,
                example,
                str(path),
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            return path.read_bytes()
    finally:
        quiet.setLevel(level)


def _run(data: bytes, image: Tensor) -> dict[str, Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found = session.run(list(OUTPUTS), {"image": image.numpy()})
    return {name: torch.from_numpy(array) for name, array in zip(OUTPUTS, found, strict=True)}


def _check_within(agreements: tuple[Agreement, ...]) -> None:
    for row in agreements:
        if not row.max_abs <= TOLERANCE * row.largest:
            found = f"{row.max_abs:.1e} of {row.largest:.1e}"
            raise InslocError(f"onnxruntime computes {row.stage} otherwise than the source: {found}; nothing was written")
