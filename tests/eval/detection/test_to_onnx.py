"""The ONNX file finds what the detector finds, in pictures it was not traced with."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from insloc_eval.detection import to_onnx
from insloc_eval.detection.build import build_detector
from insloc_eval.detection.to_onnx import onnx_bytes
from insloc_eval.protocols.detection import Detection
from insloc_hub.errors import InslocError

SMALL = {"rpn_pre_test": 40, "rpn_post_test": 15, "score_floor": 0.2, "most_detections": 6}


def test_the_file_finds_the_same_in_another_picture_of_its_size(tiny: Callable[..., Detection], trunk: nn.Module) -> None:
    """60 x 90 px, so that padding is in the file; the export itself compares two pictures, this a third."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    detector = build_detector(tiny("fpn", mask=True, **SMALL), trunk, classes=2, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(0, 255, (2, 3, 60, 90), generator=generator, dtype=torch.uint8)
    session = runtime.InferenceSession(onnx_bytes(detector, first), providers=["CPUExecutionProvider"])
    boxes, labels, scores, masks = session.run(
        ["boxes", "labels", "scores", "masks"], {"image": (second.float() / 255).numpy()}
    )
    with torch.no_grad():
        wanted = detector([second])[0]
    assert len(boxes) == len(wanted["boxes"]) > 0 and labels.tolist() == wanted["labels"].tolist()
    assert torch.allclose(torch.from_numpy(boxes), wanted["boxes"], atol=1e-3)
    assert torch.allclose(torch.from_numpy(scores), wanted["scores"], atol=1e-5)
    assert torch.allclose(torch.from_numpy(masks), wanted["masks"], atol=1e-4)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "NEEDED", ("no_such_module",))
    with pytest.raises(InslocError, match=r"ONNX needs no_such_module: pip install 'insloc_hub\[onnx\]'"):
        onnx_bytes(nn.Identity(), torch.zeros(3, 32, 32, dtype=torch.uint8))
