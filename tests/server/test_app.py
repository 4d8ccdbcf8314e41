"""The same numbers as the library's, whichever way they are asked for and answered."""

import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load as load_safetensors

from insloc_hub.space import embedding_space

BOXES = [[10, 12, 60.5, 48], [0, 0, 32, 32], [-20, 30, 40, 400]]
ALL = ["pooled", "map", "regions"]


def tensors(response):
    """A list per image of name -> tensor, from any of the three forms of an answer, and its head."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"] == "application/vnd.safetensors":
        length = int.from_bytes(response.content[:8], "little")
        head = json.loads(json.loads(response.content[8 : 8 + length])["__metadata__"]["insloc"])
        flat = load_safetensors(response.content)
        return [{n: flat[f"{n}.{i}"] for n in ALL if f"{n}.{i}" in flat} for i in range(len(head["images"]))], head
    head = response.json()
    return [{name: array(image[name]) for name in ALL if name in image} for image in head["images"]], head


def array(value):
    if isinstance(value, dict):
        assert value["dtype"] == "float32"
        numbers = np.frombuffer(base64.b64decode(value["data"]), "<f4").reshape(value["shape"])
        return torch.from_numpy(numbers.copy())
    return torch.tensor(value)


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert torch.allclose(got, wanted, rtol=0, atol=1e-5)


ANSWERS = {"float": {}, "base64": {"encoding": "base64"}, "safetensors": {"accept": "application/vnd.safetensors"}}


@pytest.mark.parametrize("form", ANSWERS)
@pytest.mark.parametrize("transform", ["whole", "eval", "whole:64"])
@pytest.mark.parametrize("way", ["raw", "multipart"])
def test_one_image_gives_the_library_s_numbers(client, extractor, png, post, post_raw, way, transform, form):
    wanted = extractor([png], boxes=[BOXES], outputs=ALL, transform=transform, stride=32)
    ask = {"transform": transform, "stride": 32, **ANSWERS[form]}
    if way == "raw":
        response = post_raw(client, png, boxes=BOXES, outputs="pooled,map,regions", **ask)
    else:
        response = post(client, [png], boxes=[BOXES], outputs=ALL, **ask)
    (got,), head = tensors(response)
    assert_close(got["pooled"], wanted.pooled[0])
    assert_close(got["map"], wanted.map[0])
    assert_close(got["regions"], wanted.regions[0])
    assert (head["transform"], head["stride"]) == (transform, 32)


@pytest.mark.parametrize("form", ANSWERS)
def test_images_of_several_shapes_keep_their_order_and_their_boxes(client, extractor, picture, packed, post, form):
    images = [picture, picture.crop((0, 0, 60, 88)).rotate(180), ImageOps.invert(picture)]
    files = [packed(image) for image in images]
    boxes = [BOXES, [], [[5, 5, 50, 80]]]
    wanted = extractor(files, boxes=boxes, outputs=ALL, transform="whole:64")
    got, head = tensors(post(client, files, boxes=boxes, outputs=ALL, transform="whole:64", **ANSWERS[form]))
    for i in range(3):
        assert_close(got[i]["pooled"], wanted.pooled[i])
        assert_close(got[i]["map"], wanted.map[i])
        assert_close(got[i]["regions"].reshape(-1, 256), wanted.regions[i])
    assert [(image["width"], image["height"]) for image in head["images"]] == [(120, 90), (60, 88), (120, 90)]
    assert [len(image["boxes"]) for image in head["images"]] == [3, 0, 1]


def test_what_is_not_asked_is_the_library_s_default(client, extractor, png, post, post_raw):
    (alone,), head = tensors(post_raw(client, png))
    assert alone.keys() == {"pooled"} and (head["transform"], head["stride"]) == ("eval", None)
    assert_close(alone["pooled"], extractor([png]).pooled[0])
    (both,), head = tensors(post(client, [png], boxes=[BOXES]))
    assert both.keys() == {"pooled", "regions"} and (head["transform"], head["stride"]) == ("whole", 16)
    assert_close(both["regions"], extractor([png], boxes=[BOXES]).regions[0])
    (dense,), head = tensors(post_raw(client, png, outputs="map"))
    assert dense.keys() == {"map"} and head["transform"] == "whole"


def test_the_answer_names_who_computed_it_and_in_which_spaces(client, extractor, png, post_raw):
    response = post_raw(client, png, boxes=BOXES, outputs="regions,pooled", stride=8)
    head = response.json()
    assert head["model"] == {
        "id": "random:resnet18@1",
        "spec": "random:resnet18@1",
        "arch": "resnet18",
        "sha256": extractor.sha256,
        "engine": "eager",
        "precision": "fp32",
    }
    assert head["spaces"] == {
        "pooled": embedding_space(extractor.sha256, "whole", "pooled"),
        "regions": embedding_space(extractor.sha256, "whole", "regions/stride-8/mean"),
    }
    other = post_raw(client, png, boxes=BOXES, transform="whole:64").json()["spaces"]
    assert other["pooled"] != head["spaces"]["pooled"]
    stages = [part.split(";dur=") for part in response.headers["server-timing"].split(", ")]
    assert [name for name, _ in stages] == ["recv", "decode", "queue", "infer", "encode"]
    assert all(float(value) >= 0 for _, value in stages) and response.headers["vary"] == "Accept"


def test_another_space_than_the_client_expects_is_a_conflict(client, png, post, post_raw):
    spaces = post_raw(client, png, boxes=BOXES, outputs="regions,pooled").json()["spaces"]
    right = post(client, [png], boxes=[BOXES], outputs=["regions", "pooled"], expect_space=list(spaces.values()))
    assert right.status_code == 200
    assert post_raw(client, png, transform="whole", expect_space=spaces["pooled"]).status_code == 200
    for response in (
        post_raw(client, png, transform="eval", expect_space=spaces["pooled"]),
        post_raw(client, png, boxes=BOXES, stride=8, expect_space=f"{spaces['pooled']},{spaces['regions']}"),
        post(client, [b"not even an image"], expect_space=["0" * 16]),
    ):
        problem = response.json()
        assert (response.status_code, problem["code"]) == (409, "space_mismatch")
        assert "pooled" in problem["spaces"] and "can't be compared" in problem["detail"]


def test_a_box_that_sticks_out_is_clipped_and_said_so(client, png, post_raw):
    inside = [0, 30, 40, 90]
    (clipped,), head = tensors(post_raw(client, png, boxes=[BOXES[2], inside], transform="whole:64"))
    (facts,) = head["images"]
    assert facts["boxes"] == [inside, inside] and facts["clipped"] == [True, False]
    assert torch.equal(clipped["regions"][0], clipped["regions"][1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_in_the_upright_frame_whatever_the_exif_orientation(
    client, extractor, picture, packed, post, post_raw, orientation
):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture.transpose(undo[orientation]) if orientation in undo else picture
    data = packed(stored, "PNG", exif=exif)
    wanted = extractor([picture], boxes=[BOXES], transform="whole:64")
    for response in (
        post_raw(client, data, boxes=BOXES, transform="whole:64"),
        post(client, [data], boxes=[BOXES], transform="whole:64"),
    ):
        (got,), head = tensors(response)
        assert (head["images"][0]["width"], head["images"][0]["height"]) == (120, 90)
        assert_close(got["regions"], wanted.regions[0])
        assert_close(got["pooled"], wanted.pooled[0])


def test_the_bytes_decide_what_an_image_is_not_its_declared_type(client, picture, packed, post_raw):
    data = packed(picture, "BMP")
    (as_bmp,), _ = tensors(post_raw(client, data, kind="image/bmp"))
    (as_jpeg,), _ = tensors(post_raw(client, data, kind="image/jpeg"))
    assert torch.equal(as_bmp["pooled"], as_jpeg["pooled"])


def test_a_bad_image_names_its_index_and_leaves_others_alone(client, png, post):
    before, _ = tensors(post(client, [png, png]))
    bad = post(client, [png, png[:-400], png])
    assert (bad.status_code, bad.json()["code"], bad.json()["index"]) == (422, "image_truncated", 1)
    after, _ = tensors(post(client, [png, png]))
    assert torch.equal(before[1]["pooled"], after[1]["pooled"])


@pytest.mark.parametrize("form", ANSWERS)
def test_what_there_is_can_be_asked_for_beside_a_bad_image(client, extractor, png, post, form):
    files = [png, png[:-400], b"no image", png]
    boxes = [BOXES, BOXES, [], [[9, 9, 0, 0]]]
    response = post(client, files, boxes=boxes, transform="whole:64", on_error="partial", **ANSWERS[form])
    got, head = tensors(response)
    errors = [image.get("error", {}).get("code") for image in head["images"]]
    assert errors == [None, "image_truncated", "unsupported_image", "bad_box"]
    assert [sorted(one) for one in got] == [["pooled", "regions"], [], [], []]
    assert_close(got[0]["regions"], extractor([png], boxes=[BOXES], transform="whole:64").regions[0])
    assert post(client, files[:3]).status_code == 422  # whoever does not ask for it gets all or nothing


def test_one_array_has_no_place_for_an_error(client, png, post):
    response = post(client, [png, b"no image"], accept="application/x-npy", on_error="partial")
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")


def test_a_deterministic_answer_is_the_library_s_bit_for_bit(client, extractor, png, post_raw):
    response = post_raw(client, png, boxes=BOXES, transform="whole:64", encoding="base64", deterministic="true")
    (got,), _ = tensors(response)
    wanted = extractor([png], boxes=[BOXES], transform="whole:64")
    assert torch.equal(got["pooled"], wanted.pooled[0]) and torch.equal(got["regions"], wanted.regions[0])


def test_the_model_is_described_under_its_name(client, extractor):
    listed = client.get("/v1/models").json()["models"]
    assert listed == [client.get("/v1/models/random:resnet18@1").json()]
    facts = listed[0]
    assert facts["strides"] == {str(stride): n for stride, n in extractor.channels.items()}
    assert (facts["pooled"], facts["default_stride"], facts["input_size"]) == (512, 16, [224, 224])
    assert facts["sha256"] == extractor.sha256


def test_a_request_may_name_the_model_it_means(client, png, post_raw):
    assert post_raw(client, png, model="random:resnet18@1").status_code == 200
    other = post_raw(client, png, model="resnet50")
    assert other.status_code == 404 and "random:resnet18@1" in other.json()["detail"]


def test_health_says_that_the_process_and_the_model_answer(client):
    for path in ("/livez", "/startupz", "/readyz"):
        assert (client.get(path).status_code, client.get(path).json()) == (200, {"status": "ok"})


def test_the_open_inference_protocol_s_names_say_the_same(client, extractor):
    assert client.get("/v2").json()["name"] == "insloc-server"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    name = "random:resnet18@1"
    assert client.get(f"/v2/models/{name}/ready").json() == {"name": name, "ready": True}
    facts = client.get(f"/v2/models/{name}").json()
    assert (facts["name"], facts["versions"]) == (name, [extractor.sha256])
    assert {one["name"]: one["shape"] for one in facts["outputs"]} == {
        "pooled": [-1, 512],
        "map": [-1, 256, -1, -1],
        "regions": [-1, 256],
    }
    for path in ("/v2/models/other", "/v2/models/other/ready"):
        assert client.get(path).json()["code"] == "model_not_found"
