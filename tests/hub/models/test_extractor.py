"""The Extractor against plain timm and torchvision: pooled, map, regions, from any form of an image."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torchvision.ops import roi_align

import insloc_hub
from insloc_hub.errors import BadBox, BadImage, InslocError
from insloc_hub.models.create import create_model, weights_digest
from insloc_hub.models.extractor import Extractor, default_transform, find_device, load, to_pixels

SPEC = "random:resnet10t@1"
SIZES = [(80, 60), (60, 90), (107, 71), (64, 64)]  # width, height
BOXES = [[[3, 4, 50, 40], [0, 0, 80, 60]], [[10.5, 20, 31, 88.5]], [], [[-9, -9, 30, 30], [60, 60, 99, 64]]]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load(SPEC, device="cpu")


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    """The same weights in timm's own hands."""
    torch.manual_seed(1)
    return timm.create_model("resnet10t", num_classes=0).eval()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    small = [generator.integers(0, 256, (h // 6, w // 6, 3), np.uint8) for w, h in SIZES]
    return [Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x, size in zip(small, SIZES, strict=True)]


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def slow_whole(image: Image.Image, side: int) -> Tensor:
    """Both sides to the input size with Pillow's antialiased bilinear, normalised."""
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) / 255
    return torch.from_numpy((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).permute(2, 0, 1).float()


def test_pooled_vectors_are_those_of_plain_timm(extractor: Extractor, plain: nn.Module, images: list[Image.Image]) -> None:
    transform = create_transform(**resolve_model_data_config(plain))
    with torch.no_grad():
        theirs = plain(torch.stack([transform(image) for image in images]))
    features = extractor(images)
    assert features.transform == "eval" and features.map is None and features.regions is None
    assert features.pooled is not None and features.pooled.shape == (4, 512)
    assert (features.pooled - theirs).abs().max() < 1e-6 * theirs.abs().max() + 1e-6


@pytest.mark.parametrize(("stride", "index"), [(8, 2), (16, 3), (32, 4)])
def test_maps_are_those_of_forward_intermediates(
    extractor: Extractor, plain: nn.Module, images: list[Image.Image], stride: int, index: int
) -> None:
    features = extractor(images, outputs=("map",), stride=stride)
    assert features.transform == "whole" and features.stride == stride and features.map is not None
    side = extractor.facts.size[0]
    for image, one in zip(images, features.map, strict=True):
        inputs = extractor.prepare(to_pixels(image), extractor.transform("whole"))[0][None]
        with torch.no_grad():
            theirs = plain.forward_intermediates(inputs, indices=[index], intermediates_only=True)[0][0]
            roughly = plain.forward_intermediates(slow_whole(image, side)[None], [index], intermediates_only=True)[0][0]
        assert one.shape == (extractor.channels[stride], -(-side // stride), -(-side // stride))
        assert (one - theirs).abs().max() < 1e-5 * theirs.abs().max()
        assert (one - roughly).abs().max() < 0.05 * theirs.abs().max()  # the other resize differs by a level here and there


@pytest.mark.parametrize("transform", ["whole", "whole:96"])
def test_regions_are_roi_align_means_of_boxes_in_pixels_of_the_original(
    extractor: Extractor, images: list[Image.Image], transform: str
) -> None:
    features = extractor(images, boxes=BOXES, transform=transform, outputs=("map", "regions"))
    assert features.map is not None and features.regions is not None
    for image, boxes, one, regions in zip(images, BOXES, features.map, features.regions, strict=True):
        w, h = image.size
        if transform == "whole":
            sx, sy = extractor.facts.size[1] / w, extractor.facts.size[0] / h
        else:
            scale = 96 / min(w, h)
            sx, sy = round(w * scale) / w, round(h * scale) / h
        inside = [[max(x1, 0) * sx, max(y1, 0) * sy, min(x2, w) * sx, min(y2, h) * sy] for x1, y1, x2, y2 in boxes]
        rows = torch.tensor(inside, dtype=torch.float32).view(-1, 4)
        slow = roi_align(one[None], [rows], 7, spatial_scale=1 / 16, sampling_ratio=0, aligned=True).mean(dim=(2, 3))
        assert regions.shape == (len(boxes), 256)
        assert torch.allclose(regions, slow, atol=1e-5 * float(one.abs().max()))


def test_boxes_of_a_turned_photograph_are_those_of_the_upright_one(extractor: Extractor, images: list[Image.Image]) -> None:
    upright = images[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side; a viewer turns it clockwise
    lying = png(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    box = [[[3, 4, 50, 20]]]
    turned, straight = extractor([lying], boxes=box), extractor([upright], boxes=box)
    assert turned.regions is not None and straight.regions is not None
    assert torch.equal(turned.regions[0], straight.regions[0])
    wrong = extractor([upright.transpose(Image.Transpose.ROTATE_90)], boxes=box)
    assert wrong.regions is not None and not torch.allclose(wrong.regions[0], straight.regions[0], atol=1e-3)


def test_every_form_of_an_image_gives_the_same_features(
    extractor: Extractor, images: list[Image.Image], tmp_path: Path
) -> None:
    image = images[0]
    path = tmp_path / "é.png"
    path.write_bytes(png(image))
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    forms = [image, tensor, path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes()), path, str(path)]
    features = [extractor([form], boxes=BOXES[:1]) for form in forms]
    for other in features[1:]:
        assert other.pooled is not None and other.regions is not None
        assert torch.equal(other.pooled, features[0].pooled) and torch.equal(other.regions[0], features[0].regions[0])
    assert [tuple(x.shape) for x in features[0].regions or []] == [(2, 256)]


def test_company_in_the_batch_does_not_matter(extractor: Extractor, images: list[Image.Image]) -> None:
    together = extractor(images, boxes=BOXES)
    for number, image in enumerate(images):
        alone = extractor([image], boxes=[BOXES[number]])
        assert together.pooled is not None and alone.pooled is not None and together.regions and alone.regions
        assert (together.pooled[number] - alone.pooled[0]).abs().max() < 1e-5
        assert torch.allclose(together.regions[number], alone.regions[0], atol=1e-5)
    assert together.pooled is not None and (together.pooled[0] - together.pooled[1]).abs().max() > 1e-3


def test_images_of_several_shapes_come_back_in_their_order(extractor: Extractor, images: list[Image.Image]) -> None:
    mixed = [images[0], images[1], images[0], images[2]]
    features = extractor(mixed, outputs=("pooled", "map"), transform="whole:64")
    assert features.pooled is not None and features.map is not None
    assert [tuple(one.shape[1:]) for one in features.map] == [(4, 6), (6, 4), (4, 6), (4, 6)]
    assert torch.allclose(features.pooled[0], features.pooled[2], atol=1e-6)
    assert not torch.allclose(features.pooled[0], features.pooled[3], atol=1e-3)
    for image, affine in zip(mixed, features.affines, strict=True):
        corner = affine.boxes(torch.tensor([[0.0, 0, *image.size]]))[0, 2:]
        assert float(corner.min()) == pytest.approx(64)


def test_outputs_that_were_not_asked_are_none_and_no_image_gives_none(extractor: Extractor) -> None:
    with_boxes = extractor([torch.zeros(3, 40, 50, dtype=torch.uint8)], boxes=[[[1, 2, 3, 4]]], outputs=("regions",))
    assert with_boxes.pooled is None and with_boxes.map is None and with_boxes.regions is not None
    nothing = extractor([], outputs=("map",))
    assert nothing.map == [] and nothing.affines == ()


def test_the_default_transform_cuts_no_box_off() -> None:
    assert default_transform(("pooled",)) == "eval"
    assert default_transform(("pooled", "regions")) == default_transform(("map",)) == "whole"


@pytest.mark.parametrize(
    ("boxes", "index", "said"),
    [
        ([[], [[1, 2, 3, 4], [9, 9, 1, 1]]], 1, "box 1: of image 1 is reversed or empty"),
        ([[[1, 2, float("nan"), 4]], []], 0, "box 0: of image 0 has a coordinate that is no finite number"),
        (
            [[[1, 2, 3, 4]], [[1, 2, 3, 4], [1, 2, 3, 4], [60, 5, 70, 9]]],
            2,
            "box 2: of image 1 is empty or lies outside the 60 x 90",
        ),
        ([[[1, 2, 3]], []], 0, "box 0: of image 0"),
    ],
)
def test_a_bad_box_is_refused_with_its_index_and_that_of_its_image(
    extractor: Extractor, images: list[Image.Image], boxes: list[Any], index: int, said: str
) -> None:
    with pytest.raises(BadBox, match=said) as refusal:
        extractor(images[:2], boxes=boxes)
    assert refusal.value.index == index


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"", "empty_image"),
        (b"text", "unsupported_image"),
        ("no such file.jpg", "unreadable"),
        (torch.zeros(3, 9, 9), "unsupported_image"),
        (torch.zeros(1, 9, 9, dtype=torch.uint8), "unsupported_image"),
        (np.zeros((9, 9, 3), np.uint8), "unsupported_image"),
        (None, "unsupported_image"),
    ],
)
def test_a_bad_image_is_refused_with_its_index(extractor: Extractor, images: list[Image.Image], bad: object, code: str) -> None:
    with pytest.raises(BadImage, match="image 1: ") as refusal:
        extractor([images[0], bad, images[1]])
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"outputs": ("vector",)}, "outputs must be some of pooled, map, regions; got vector"),
        ({"outputs": ()}, "got none"),
        ({"outputs": ("regions",)}, "needs boxes"),
        ({"boxes": [[]]}, "2 images but 1 lists of boxes"),
        ({"outputs": ("map",), "stride": 64}, r"no map of stride 64; it has \[2, 4, 8, 16, 32\]"),
        ({"transform": "crop"}, "unknown transform 'crop'"),
    ],
)
def test_a_wrong_request_is_refused(extractor: Extractor, images: list[Image.Image], kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(InslocError, match=said):
        extractor(images[:2], **kwargs)


def test_the_backbone_is_frozen_and_in_eval_mode(extractor: Extractor) -> None:
    assert not extractor.model.training and not any(p.requires_grad for p in extractor.model.parameters())
    before = weights_digest(extractor.model)
    extractor([torch.full((3, 70, 70), 200, dtype=torch.uint8)] * 3)
    assert weights_digest(extractor.model) == before == extractor.sha256
    assert extractor.sha256 == weights_digest(create_model(SPEC)) and extractor.arch == "resnet10t"


def test_an_export_of_ours_is_loaded_with_its_own_input_facts(finished_run: Path) -> None:
    extractor = insloc_hub.load(str(finished_run))
    assert extractor.facts.size == (64, 64) and extractor.facts.crop_pct == 0.875
    assert extractor([torch.zeros(3, 50, 40, dtype=torch.uint8)]).pooled is not None


def test_half_precision_is_near_and_given_back_as_float32(extractor: Extractor, images: list[Image.Image]) -> None:
    half = load(SPEC, device="cpu", precision="bf16")(images).pooled
    full = extractor(images).pooled
    assert half is not None and full is not None and half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert torch.nn.functional.cosine_similarity(half, full).min() > 0.99


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", "meta", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InslocError, match=name):
        find_device(name)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InslocError, match="fp32, bf16"):
        load(SPEC, precision="fp8")
