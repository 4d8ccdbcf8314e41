"""A detector as one ONNX file, for pictures of one size; what it finds is compared with the network's own in onnxruntime.

Needs the extra `onnx`: pip install 'insloc_hub[onnx]'. By torch's tracing exporter, whose graph holds the anchors of the maps
of one picture: hence one size.
"""

import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from insloc_hub.checkpoints.to_onnx import NEEDED
from insloc_hub.errors import InslocError
from insloc_hub.shapes import Float, UInt8

OPSET = 17  # RoiAlign with half-pixel centres came with 16
BOX_PX, SCORE = 0.1, 1e-3  # what onnxruntime may differ by, which folds norms into convolutions


class _Answers(nn.Module):
    """One picture in 0..1 -> boxes, scores, labels, and masks where they are learnt."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detector([image])[0].values())


def onnx_bytes(detector: nn.Module, picture: UInt8[Tensor, "3 h w"]) -> bytes:
    """The file, for pictures of the size of `picture`; detector in evaluation mode. InslocError: no extra, or it differs."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InslocError(f"ONNX needs {', '.join(missing)}: pip install 'insloc_hub[onnx]'")
    image = picture.float() / 255
    names = list(_found(detector, image))
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            path = Path(folder) / "detector.onnx"
            warnings.simplefilter("ignore")  # of tracing: what it takes as constant is, for one size
            torch.onnx.export(
                _Answers(detector).eval(),
                (image,),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=names,
                dynamic_axes={name: {0: "n"} for name in names},
            )
            data = path.read_bytes()
    finally:
        quiet.setLevel(level)
    for one in (image, image.flip(2)):  # the second with other boxes, and another number of them
        _check(data, one, _found(detector, one))
    return data


@torch.no_grad()
def _found(detector: nn.Module, image: Float[Tensor, "3 h w"]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = detector([image])[0]
    return found


def _check(data: bytes, image: Float[Tensor, "3 h w"], wanted: dict[str, Tensor]) -> None:
    """InslocError: the file finds something else."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(array) for array in session.run(None, {"image": image.numpy()})]
    for (name, right), one in zip(wanted.items(), found, strict=True):
        most = BOX_PX if name == "boxes" else SCORE
        if one.shape != right.shape or (len(one) and (one.double() - right.double()).abs().max().item() > most):
            raise InslocError(f"onnxruntime finds other {name} than the detector; the file is not written")
