"""What computes a forward: the plain model, one frozen graph of it, or onnxruntime. Which one is said by configuration.

An engine other than the plain model is used only if it gives the plain model's numbers, on two batches of different
shape (contracts.md 7: the embedding space is the same). `auto` is the fused graph for fp32 on a CPU (serving.md 6.1),
else the plain model; what is installed has no say in it.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from insloc_hub.encoders.backbone import map_strides
from insloc_hub.errors import InslocError
from insloc_hub.models.extractor import Extractor, Forward
from insloc_hub.shapes import Float

log = logging.getLogger(__name__)

LEAST_COSINE = 0.99999
EXTRA = ("onnx", "onnxruntime", "onnxscript")
OTHER_SHAPE = (1, 3, 64, 96)  # than the model's own: what was frozen by mistake shows

Run = Callable[[Tensor], Sequence[Tensor]]
"""Network inputs -> maps by rising stride, then the pooled vector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarder:
    """An engine with a model in it."""

    name: str
    """eager, fused or onnx."""
    forward: Callable[[Tensor, Sequence[int], bool], Forward]
    """As Extractor.forward: inputs, strides, whether the pooled vector is wanted."""


class Everything(nn.Module):
    """All that a model can give, as one graph: each stride's map and the pooled vector."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.model = extractor.model
        self.pools_last_map = extractor.pools_last_map
        self.indices = sorted(map_strides(extractor.model).values())

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """Maps in the order of their strides, then the vector."""
        final, maps = self.model.forward_intermediates(image, indices=self.indices)  # type: ignore[operator]
        if self.pools_last_map:
            return (*maps, maps[-1].mean(dim=(2, 3)))
        return (*maps, self.model.forward_head(final, pre_logits=True))  # type: ignore[operator]


def make_forwarder(extractor: Extractor, engine: str) -> Forwarder:
    """The engine called auto, eager, fused or onnx, proved. InslocError: it can't be had, or computes something else."""
    eager = Forwarder(name="eager", forward=extractor.forward)
    plain = extractor.device.type != "cpu" or extractor.precision != "fp32"
    if engine == "eager" or (engine == "auto" and plain):
        return eager
    if plain:
        where = f"{extractor.precision} on {extractor.device.type}"
        raise InslocError(f"--engine {engine} computes fp32 on the CPU, not {where}; say --engine eager, or auto")
    try:
        run = onnx(extractor) if engine == "onnx" else fused(extractor)
        check_parity(extractor, run)
    except Exception as error:
        if engine == "auto":
            log.warning("the plain model is used, since the fused graph can't be: %s", error)
            return eager
        if isinstance(error, InslocError):
            raise InslocError(f"--engine {engine}: {error}") from None
        kind = type(error).__name__
        raise InslocError(f"--engine {engine} can't take {extractor.arch} ({kind}); say --engine eager, or auto") from error
    return Forwarder(name="fused" if engine == "auto" else engine, forward=Chosen(extractor, run))


class Chosen:
    """Extractor.forward by another engine: all is computed, what is asked is handed on."""

    def __init__(self, extractor: Extractor, run: Run) -> None:
        self.run = run
        self.strides = sorted(extractor.channels)

    def __call__(self, inputs: Float[Tensor, "b 3 h w"], strides: Sequence[int], pooled: bool) -> Forward:
        """The maps of `strides`, and the vectors if asked."""
        with torch.inference_mode():
            *maps, vectors = self.run(inputs)
        given = dict(zip(self.strides, maps, strict=True))
        return Forward(pooled=vectors if pooled else None, maps={stride: given[stride] for stride in strides})


def fused(extractor: Extractor) -> Run:
    """One graph with the weights in it: norms folded into convolutions, convolutions fused with what follows, packed."""
    h, w = extractor.facts.size
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.14 says that torch.compile is to be used; it takes seconds a shape
        example = torch.zeros(2, 3, h, w).contiguous(memory_format=torch.channels_last)
        traced = torch.jit.trace(Everything(extractor).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        graph = torch.jit.optimize_for_inference(torch.jit.freeze(traced))

    def run(inputs: Tensor) -> Sequence[Tensor]:
        outputs: Sequence[Tensor] = graph(inputs.contiguous(memory_format=torch.channels_last))
        return outputs

    return run


def onnx(extractor: Extractor) -> Run:
    """The model in onnxruntime, on as many threads as torch has. InslocError: the extra is not installed."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise InslocError(f"{', '.join(missing)} is not installed: pip install 'insloc_hub[onnx]'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn a core
    session = onnxruntime.InferenceSession(onnx_file(extractor), options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {"image": inputs.numpy()})]

    return run


def onnx_file(extractor: Extractor) -> bytes:
    """The model as an ONNX file for any batch and size, kept in memory: a server writes nothing."""
    h, w = extractor.facts.size
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals
            shapes: Any = ({0: "batch", 2: "height", 3: "width"},)
            # A batch of 2: with 1 older exporters take the batch for a constant.
            program: Any = torch.onnx.export(
                Everything(extractor).eval(),
                (torch.zeros(2, 3, h, w),),
                input_names=["image"],
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
            data: bytes = program.model_proto.SerializeToString()
            return data
    finally:
        quiet.setLevel(level)


def check_parity(extractor: Extractor, run: Run) -> None:
    """InslocError: an output of some image points elsewhere than the plain model's."""
    h, w = extractor.facts.size
    generator = torch.Generator().manual_seed(0)
    chosen, strides = Chosen(extractor, run), sorted(extractor.channels)
    for shape in ((2, 3, h, w), OTHER_SHAPE):
        images = torch.randn(shape, generator=generator)
        wanted, got = extractor.forward(images, strides, True), chosen(images, strides, True)
        pairs = [("pooled vectors", wanted.pooled, got.pooled)]
        pairs += [(f"the map of stride {stride}", wanted.maps[stride], got.maps[stride]) for stride in strides]
        for name, one, other in pairs:
            if one is None or other is None or one.shape != other.shape:
                raise InslocError(f"it gives {name} of another shape than the plain model; say --engine eager")
            cosine = float(nn.functional.cosine_similarity(one.flatten(1).double(), other.flatten(1).double()).min())
            if not cosine >= LEAST_COSINE:
                detail = f"cosine {cosine:.6f} with the plain model, at least {LEAST_COSINE} is needed"
                raise InslocError(f"it computes {name} otherwise: {detail}; say --engine eager")
