"""The exported trunk runs in onnxruntime at any batch and size, and agrees to 1e-4 with timm."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from insloc_hub.checkpoints.convert import convert
from insloc_hub.checkpoints.verify import timm_trunk
from insloc_hub.errors import InslocError

Tensors = dict[str, Tensor]
REASON = "needs the extra `onnx`: pip install 'insloc_hub[onnx]'"


def test_it_runs_at_any_batch_and_size_and_agrees(small: Tensors, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason=REASON)
    runtime = pytest.importorskip("onnxruntime", reason=REASON)
    pytest.importorskip("onnxscript", reason=REASON)
    save_file(small, tmp_path / "small.safetensors")
    done = convert(tmp_path / "small.safetensors", "onnx", tmp_path / "small.onnx", strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.onnx", "small.safetensors"]  # one file, weights inside
    onnx.checker.check_model(str(done.out))
    session = runtime.InferenceSession(str(done.out), providers=["CPUExecutionProvider"])
    assert [out.name for out in session.get_outputs()] == ["c2", "c3", "c4", "c5", "pooled"]
    model = timm_trunk("resnet18", small)
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160)):
        image = torch.linspace(-2, 2, 3 * shape[2] * shape[3]).reshape(1, *shape[1:]).expand(shape).contiguous()
        with torch.no_grad():
            maps = model.forward_intermediates(image, indices=[1, 2, 3, 4], intermediates_only=True)  # type: ignore[operator]
            wanted = [*maps, model(image)]
        for found, meant in zip(session.run(None, {"image": image.numpy()}), wanted, strict=True):
            assert found.shape == tuple(meant.shape)
            assert float((torch.from_numpy(found) - meant).abs().max()) <= 1e-4 * float(meant.abs().max())


def test_without_the_extra_the_way_to_it_is_said(small: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    missing: Callable[[str], object] = lambda name: None if name == "onnxscript" else real(name)  # noqa: E731
    monkeypatch.setattr("insloc_hub.checkpoints.to_onnx.importlib.util.find_spec", missing)
    save_file(small, tmp_path / "small.safetensors")
    with pytest.raises(InslocError, match=r"ONNX needs .*onnxscript: pip install 'insloc_hub\[onnx\]'"):
        convert(tmp_path / "small.safetensors", "onnx", tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()
