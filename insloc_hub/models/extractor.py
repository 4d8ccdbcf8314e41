"""Images and boxes -> pooled vector, dense map, region vectors, from one forward (contracts.md 2).

The harness, the server and bulk extraction are built from these parts; none has a decoder, transform or pooling of its
own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from insloc_hub.boxes.check import check_boxes
from insloc_hub.boxes.means import region_means
from insloc_hub.data.decode import TRUSTED, ImageLimits, decode, from_pil, read
from insloc_hub.data.transform import Affine, Transform, input_facts, make_transform
from insloc_hub.encoders.backbone import map_channels, map_strides
from insloc_hub.errors import BadBox, BadImage, InslocError
from insloc_hub.models.create import create_model, weights_digest
from insloc_hub.shapes import Float, UInt8

OUTPUTS = ("pooled", "map", "regions")
DEFAULT_STRIDE = 16  # the map that C4 detectors pool their regions from
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """What one forward of a batch gives: float32, on the model's device."""

    pooled: Tensor | None
    """[b d], the model's own pooling; None if not asked."""
    maps: dict[int, Tensor]
    """Stride in pixels -> [b c h w]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What a caller of an Extractor gets: float32, on the CPU; fields that were not asked are None."""

    transform: str
    stride: int
    """Of the map and of the regions, in pixels of the network input."""
    affines: tuple[Affine, ...]
    """Per image: pixels of the original -> pixels of the network input."""
    pooled: Float[Tensor, "b d"] | None = None
    map: list[Float[Tensor, "c _ _"]] | None = None
    """One per image."""
    regions: list[Float[Tensor, "_ c"]] | None = None
    """One per image, a row per box: RoIAlign mean (7 x 7, aligned, adaptive) of the map."""


class Extractor:
    """A frozen backbone on a device; made by `insloc_hub.load`."""

    def __init__(self, model: nn.Module, spec: str, device: torch.device, precision: str) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.spec = spec
        self.arch = str(model.pretrained_cfg["architecture"])  # type: ignore[index]
        self.device = device
        self.precision = precision
        self.facts = input_facts(resolve_model_data_config(model))
        self.sha256 = weights_digest(model)
        self.channels = map_channels(model)
        self.pools_last_map = bool(getattr(model, "insloc_untrained", ()))
        """Whether `pooled` is the mean of the last map: what lies behind it was never trained (see the card)."""

    def __call__(
        self,
        images: Sequence[Any],
        boxes: Sequence[Any] | None = None,
        outputs: Sequence[str] | None = None,
        transform: str | None = None,
        stride: int | None = None,
    ) -> Features:
        """Features of PIL images, paths, bytes or uint8 [3 h w] tensors.

        `boxes`: per image, rows of x1, y1, x2, y2 in pixels of the upright original. `outputs`: some of pooled, map,
        regions; by default pooled, and regions if boxes are given. `transform`: eval, whole or whole:N; by default eval
        for pooled alone, else whole (pooled vectors of the two differ). BadBox, BadImage (both say which), InslocError.
        """
        wanted = tuple(outputs) if outputs is not None else (("pooled",) if boxes is None else ("pooled", "regions"))
        check_outputs(wanted, boxes is not None)
        name = transform or default_transform(wanted)
        at = stride or self.default_stride
        pixels = [_numbered_pixels(number, image) for number, image in enumerate(images)]
        prepared = [self.prepare(image, self.transform(name)) for image in pixels]
        rows = None
        if "regions" in wanted:
            rows = self._regions_boxes(boxes or [], pixels, [affine for _, affine in prepared])
        return self._run(prepared, rows, wanted, name, at)

    @property
    def default_stride(self) -> int:
        """16, or the deepest map below it where there is none."""
        return DEFAULT_STRIDE if DEFAULT_STRIDE in self.channels else max(self.channels)

    def transform(self, name: str, size: int | None = None) -> Transform:
        """The house's transform with this model's facts; `size` as in make_transform."""
        return make_transform(name, self.facts, size)

    def prepare(self, image: UInt8[Tensor, "3 h w"], transform: Transform) -> tuple[Float[Tensor, "3 hh ww"], Affine]:
        """One network input, on the CPU."""
        return transform(image)

    @torch.inference_mode()
    def forward(self, inputs: Float[Tensor, "b 3 h w"], strides: Sequence[int], pooled: bool) -> Forward:
        """One forward for everything that is asked. InslocError: a stride this model does not have."""
        inputs = inputs.to(self.device)
        index_of = map_strides(self.model)
        for stride in strides:
            if stride not in index_of:
                raise InslocError(f"{self.arch} has no map of stride {stride}; it has {sorted(index_of)}")
        last = max(index_of)
        behind = pooled and not self.pools_last_map  # whether the layers behind the last map have a say
        order = sorted({*strides, last} if pooled and not behind else set(strides), key=lambda s: index_of[s])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            final, maps = None, []
            if order and behind:
                final, maps = self.model.forward_intermediates(  # type: ignore[operator]
                    inputs, indices=[index_of[s] for s in order]
                )
            elif order:
                # Some families (MobileNetV3) stop early only where nothing but the maps is asked.
                maps = self.model.forward_intermediates(  # type: ignore[operator]
                    inputs, indices=[index_of[s] for s in order], stop_early=True, intermediates_only=True
                )
            else:
                final = self.model.forward_features(inputs)  # type: ignore[operator]
            vectors = self.model.forward_head(final, pre_logits=True) if behind else None  # type: ignore[operator]
        given = {stride: one.float() for stride, one in zip(order, maps, strict=True)}
        if pooled and not behind:
            vectors = given[last].mean(dim=(2, 3))
        return Forward(
            pooled=None if vectors is None else vectors.float(), maps={s: one for s, one in given.items() if s in strides}
        )

    def _regions_boxes(self, boxes: Sequence[Any], pixels: list[Tensor], affines: list[Affine]) -> list[Tensor]:
        if len(boxes) != len(pixels):
            raise InslocError(f"{len(pixels)} images but {len(boxes)} lists of boxes; give one list per image")
        rows = []
        for number, (some, image, affine) in enumerate(zip(boxes, pixels, affines, strict=True)):
            try:
                rows.append(affine.boxes(check_boxes(some, (image.shape[2], image.shape[1]))))
            except BadBox as error:
                raise BadBox(error.index, f"of image {number} {str(error).split(': ', 1)[1]}") from None
        return rows

    def _run(
        self,
        prepared: list[tuple[Tensor, Affine]],
        rows: list[Tensor] | None,
        wanted: tuple[str, ...],
        name: str,
        stride: int,
    ) -> Features:
        strides = [stride] if {"map", "regions"} & set(wanted) else []
        pooled: dict[int, Tensor] = {}
        maps: dict[int, Tensor] = {}
        regions: dict[int, Tensor] = {}
        for group in same_shape([tuple(x.shape) for x, _ in prepared]):
            out = self.forward(torch.stack([prepared[i][0] for i in group]), strides, "pooled" in wanted)
            for place, i in enumerate(group):
                if out.pooled is not None:
                    pooled[i] = out.pooled[place].cpu()
                if strides:
                    maps[i] = out.maps[stride][place].cpu()
                if rows is not None:
                    regions[i] = region_means(maps[i][None], [rows[i]], 1 / stride)[0]
        order = range(len(prepared))
        return Features(
            transform=name,
            stride=stride,
            affines=tuple(affine for _, affine in prepared),
            pooled=torch.stack([pooled[i] for i in order]) if pooled else None,
            map=[maps[i] for i in order] if "map" in wanted else None,
            regions=[regions[i] for i in order] if rows is not None else None,
        )


def load(spec: str, device: str = "auto", precision: str = "fp32") -> Extractor:
    """The model that `spec` names, frozen, ready to give features. `device`: auto (CUDA if there is one), cpu, cuda[:n].

    >>> import torch
    >>> extractor = load("random:resnet18")
    >>> features = extractor([torch.zeros(3, 80, 60, dtype=torch.uint8)], boxes=[[[5, 5, 40, 70]]])
    >>> features.regions[0].shape
    torch.Size([1, 256])
    """
    if precision not in PRECISIONS:
        raise InslocError(f"unknown precision {precision!r}; there are {', '.join(PRECISIONS)}")
    return Extractor(create_model(spec), spec, find_device(device), precision)


def find_device(name: str) -> torch.device:
    """The device called `name`. InslocError: no such device here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InslocError(f"unknown device {name!r}; say auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InslocError(f"device {name!r} is not supported; say auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InslocError(f"no device {name!r} here: torch sees {torch.cuda.device_count()} CUDA devices; say cpu or auto")
    return device


def to_pixels(image: Any, limits: ImageLimits = TRUSTED) -> UInt8[Tensor, "3 h w"]:
    """Upright RGB pixels of a path, bytes, a PIL image or a uint8 [3 h w] tensor. BadImage."""
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise BadImage("unsupported_image", f"a tensor image must be uint8 [3 h w], not {image.dtype} {list(image.shape)}")
        return image
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image), limits)
    if isinstance(image, str | Path):
        return read(Path(image), limits)
    if isinstance(image, Image.Image):
        return from_pil(image)
    raise BadImage("unsupported_image", f"an image is a path, bytes, a PIL image or a uint8 tensor, not {type(image).__name__}")


def _numbered_pixels(number: int, image: Any) -> UInt8[Tensor, "3 h w"]:
    try:
        return to_pixels(image)
    except BadImage as error:
        raise BadImage(error.code, f"image {number}: {error}") from None


def check_outputs(outputs: Sequence[str], has_boxes: bool) -> None:
    """InslocError: an unknown output, none, or regions without boxes."""
    unknown = [name for name in outputs if name not in OUTPUTS]
    if unknown or not outputs:
        raise InslocError(f"outputs must be some of {', '.join(OUTPUTS)}; got {', '.join(map(str, outputs)) or 'none'}")
    if "regions" in outputs and not has_boxes:
        raise InslocError("the output 'regions' needs boxes")


def default_transform(outputs: Sequence[str]) -> str:
    """`eval` where only whole-image vectors are asked, else `whole`, which cuts no box off."""
    return "eval" if tuple(outputs) == ("pooled",) else "whole"


def same_shape(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Positions grouped by equal shape, in order of first appearance.

    >>> same_shape([(2,), (3,), (2,)])
    [[0, 2], [1]]
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(position)
    return list(groups.values())
