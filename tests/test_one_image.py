"""One image through create_model, the Extractor, the judge and HTTP: the same numbers."""

import json
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.ops import roi_align

import insloc_hub
from insloc_eval.features import extract, pooled_spec
from insloc_hub.data.folder import Sample
from insloc_server.serve import running
from insloc_server.settings import make_settings

TOLERANCE = 1e-5
BOXES = [[3.0, 5.0, 40.5, 61.0], [20.0, 0.0, 90.0, 47.0]]


@pytest.fixture(scope="module")
def photo(world, tmp_path_factory) -> Path:
    """A photograph that is neither square nor of the network's size."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    source = next((world / "val").rglob("*.jpg"))
    Image.open(source).convert("RGB").resize((111, 74)).save(path)
    return path


@pytest.fixture(scope="module")
def by_hand(exported_run, photo):
    """Pooled vector, stride-16 map and region means, from the plain timm module and torchvision alone."""
    model = insloc_hub.create_model(str(exported_run))
    pixels = torch.frombuffer(bytearray(Image.open(photo).tobytes()), dtype=torch.uint8).view(74, 111, 3).permute(2, 0, 1)
    resized = torch.nn.functional.interpolate(pixels[None], size=(64, 64), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    inputs = (resized / 255 - mean) / std
    scale = torch.tensor([64 / 111, 64 / 74, 64 / 111, 64 / 74])
    with torch.inference_mode():
        pooled = model(inputs)
        map_ = model.forward_intermediates(inputs, indices=[3], intermediates_only=True)[0]
        regions = roi_align(map_, [torch.tensor(BOXES) * scale], 7, 1 / 16, 0, True).mean((2, 3))
    return pooled[0], map_[0], regions


def close(a, b) -> bool:
    return float((torch.as_tensor(a) - b).abs().max()) <= TOLERANCE


def test_the_extractor_agrees_with_plain_timm_and_torchvision(exported_run, photo, by_hand):
    extractor = insloc_hub.load(str(exported_run), device="cpu")
    features = extractor([photo], boxes=[BOXES], outputs=("pooled", "map", "regions"))
    assert features.transform == "whole"
    assert close(features.pooled[0], by_hand[0])
    assert close(features.map[0], by_hand[1])
    assert close(features.regions[0], by_hand[2])


def test_the_judge_agrees(exported_run, photo, by_hand):
    extractor = insloc_hub.load(str(exported_run), device="cpu")
    table = extract(extractor, [Sample("photo.png", photo)], pooled_spec(extractor, "whole", 64), "test")
    assert close(table.values[0], by_hand[0])


def test_the_server_agrees(exported_run, photo, by_hand):
    query = urllib.parse.urlencode({"outputs": "pooled,map,regions", "boxes": json.dumps(BOXES)})
    with running(make_settings(model=str(exported_run), port=0, device="cpu")) as url:
        request = urllib.request.Request(
            f"{url}/v1/features?{query}", data=photo.read_bytes(), headers={"Content-Type": "image/png"}
        )
        answer = json.loads(urllib.request.urlopen(request, timeout=30).read())
    assert answer["transform"] == "whole"
    image = answer["images"][0]
    assert close(image["pooled"], by_hand[0])
    assert close(image["map"], by_hand[1])
    assert close(image["regions"], by_hand[2])
