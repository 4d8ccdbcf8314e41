"""Forms of an answer: what Accept chooses, and that no number is lost."""

import base64
import io
import json

import numpy as np
import pytest
import torch

from insloc_server.answers import choose_type, json_array, json_bytes
from insloc_server.outputs import FLOAT_BYTES
from insloc_server.problems import Refusal

JSON, SAFE, NPY = "application/json", "application/vnd.safetensors", "application/x-npy"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (SAFE, SAFE),
        ("Application/VND.safetensors", SAFE),
        (f"{JSON}, {SAFE}", JSON),
        (f"{JSON};q=0.5, {SAFE}", SAFE),
        (f"{SAFE};q=0.1, */*;q=0.5", JSON),
        (f"{JSON};q=0, */*", SAFE),
        (NPY, NPY),
        (f"{NPY}, {SAFE};q=0.9", NPY),
        (f"{SAFE}, {NPY}", SAFE),
        (f"text/html, {SAFE};q=0.3", SAFE),
        ("text/html", None),
        (f"{JSON};q=0", None),
        (f"{JSON};q=x", None),
        ("*/*;q=0", None),
    ],
)
def test_accept_chooses_the_form(accept, chosen):
    if chosen is None:
        with pytest.raises(Refusal) as caught:
            choose_type(accept)
        assert caught.value.code == "not_acceptable"
    else:
        assert choose_type(accept) == chosen


def test_every_number_survives_both_forms_of_json():
    tensor = torch.tensor([[1e-45, -3.4e38, 0.1], [1 / 3, -0.0, 7.0]])
    assert torch.equal(torch.tensor(json.loads(json.dumps(json_array(tensor, "float")))), tensor)
    packed = json_array(tensor, "base64")
    back = np.frombuffer(base64.b64decode(packed["data"]), "<f4").reshape(packed["shape"])
    assert back.tobytes() == tensor.numpy().tobytes() and packed["dtype"] == "float32"


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_the_computed_size_bounds_the_real_one_and_not_by_far(encoding):
    numbers = 3000
    values = -torch.rand(numbers, generator=torch.Generator().manual_seed(0)) * 1e-5
    real = len(json_bytes({"images": [{}]}, [{"pooled": values}], encoding))
    bound = numbers * FLOAT_BYTES[encoding]
    assert 0.8 * bound < real <= bound + 100


def array(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == NPY
    return np.load(io.BytesIO(response.content), allow_pickle=False)


BOXES = [[10, 12, 60.5, 48], [0, 0, 32, 32]]


@pytest.mark.parametrize("output", ["pooled", "map", "regions"])
def test_npy_is_the_one_tensor_of_one_image(client, extractor, png, post_raw, output):
    boxes = {"boxes": BOXES} if output == "regions" else {}
    response = post_raw(client, png, accept=NPY, outputs=output, transform="whole:64", **boxes)
    library = {"boxes": [BOXES]} if boxes else {}
    wanted = getattr(extractor([png], outputs=[output], transform="whole:64", **library), output)[0]
    got = array(response)
    assert got.dtype == np.float32 and np.allclose(got, wanted.numpy(), rtol=0, atol=1e-5)
    assert json.loads(response.headers["x-embedding-spaces"]).keys() == {output}
    assert response.headers["x-model-revision"] == extractor.sha256


def test_npy_holds_the_pooled_vectors_of_several_images_in_their_order(client, extractor, picture, packed, png, post):
    files = [png, packed(picture.rotate(90)), packed(picture.crop((0, 0, 40, 60)))]
    got = array(post(client, files, accept=NPY))
    assert np.allclose(got, torch.stack(list(extractor(files).pooled)).numpy(), rtol=0, atol=1e-5)


def test_what_is_not_one_array_is_refused_as_npy(client, png, post, post_raw):
    for response in (
        post_raw(client, png, accept=NPY, outputs="pooled,map"),
        post_raw(client, png, accept=NPY, boxes=BOXES),
        post(client, [png, png], accept=NPY, outputs=["map"]),
        post(client, [png, png], accept=NPY, outputs=["regions"], boxes=[BOXES, []]),
    ):
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
        assert "safetensors" in response.json()["detail"]
