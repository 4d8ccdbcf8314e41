"""Forms of an answer: what Accept chooses, and that no number is lost."""

import base64
import json

import numpy as np
import pytest
import torch

from insloc_server.outputs import FLOAT_BYTES, OUTPUTS, Sizes, check_answer, choose_type, json_array, json_bytes
from insloc_server.problems import Refusal

JSON, SAFE = "application/json", "application/vnd.safetensors"


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


def test_the_size_of_an_answer_counts_all_images_and_outputs():
    sizes = [Sizes(pooled=10, channels=3, cells=4, boxes=2), Sizes(pooled=10, channels=3, cells=9, boxes=0)]
    floats = (10 + 12 + 6) + (10 + 27 + 0)
    check_answer(list(OUTPUTS), sizes, 4, 4 * floats)
    with pytest.raises(Refusal) as caught:
        check_answer(list(OUTPUTS), sizes, 4, 4 * floats - 1)
    assert (caught.value.code, caught.value.facts["limit"]) == ("answer_too_large", 4 * floats - 1)


def test_a_map_too_large_as_lists_fits_as_tensors(client, png, post_raw):
    from insloc_server.settings import MIB

    assert client.app.state.settings.max_answer_bytes == 64 * MIB
    ask = {"outputs": "map", "transform": "whole:500", "stride": 2}  # 64 x 256 x 336 floats
    lists = post_raw(client, png, **ask)
    assert (lists.status_code, lists.json()["code"]) == (422, "answer_too_large") and SAFE in lists.json()["detail"]
    tensors = post_raw(client, png, accept=SAFE, **ask)
    assert tensors.status_code == 200 and len(tensors.content) > 64 * 256 * 336 * 4
