"""Boxes: good ones give vectors, bad ones their index, none of them a 500."""

import json
import math
import random

import numpy as np
import pytest
import torch

from insloc_hub.data.transform import Affine
from insloc_server.problems import Refusal
from insloc_server.regions import place_boxes

RAW = {"content-type": "image/png"}
W, H = 120, 90  # the picture


def ask(client, png, text):
    return client.post(
        "/v1/features", content=png, headers=RAW, params={"boxes": text, "outputs": "regions", "transform": "whole:32"}
    )


def has_region(box):
    """The rule of the contract, spelt out; boxes are computed with in float32."""
    x1, y1, x2, y2 = box
    if not all(math.isfinite(v) for v in box) or x1 >= x2 or y1 >= y2:
        return False
    left, top, right, bottom = np.float32(max(x1, 0)), np.float32(max(y1, 0)), np.float32(min(x2, W)), np.float32(min(y2, H))
    return bool(left < right and top < bottom)


def random_box(draw):
    odd = [math.nan, math.inf, -math.inf, 1e30, -1e30, 1e308, -1e308, 10**30, -(10**400), 0, -0.0, W, H, -5, 5e-324]
    return [
        draw.choice(odd) if draw.random() < 0.25 else draw.choice([draw.uniform(-200, 300), draw.randrange(-20, 140)])
        for _ in range(4)
    ]


def test_random_boxes_are_answered_exactly_where_they_have_a_region(client, png):
    draw = random.Random(4)
    statuses = []
    for number in range(300):
        boxes = [random_box(draw) for _ in range(draw.choice([1, 1, 1, 3]))]
        if number % 3 == 0:
            boxes = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in boxes]
        response = ask(client, png, json.dumps(boxes))
        bad = [i for i, box in enumerate(boxes) if not has_region([float_of(v) for v in box])]
        statuses.append(response.status_code)
        if response.status_code == 200:
            assert bad == [], boxes
            vectors = torch.tensor(response.json()["images"][0]["regions"])
            assert vectors.shape == (len(boxes), 256) and bool(vectors.isfinite().all())
        else:
            assert (response.status_code, response.json()["code"]) == (422, "bad_box"), boxes
            assert response.json()["index"] in bad
    assert 30 < statuses.count(200) < 270


def float_of(value):
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@pytest.mark.parametrize("coordinate", ["NaN", "1e999", "-Infinity", "null", '"7"', "true", "[]", "{}", "1" + "0" * 400])
@pytest.mark.parametrize("way", ["raw", "multipart"])
def test_a_coordinate_that_is_no_finite_number_names_its_box(client, png, way, coordinate):
    rows = f"[[0,0,9,9],[0,0,{coordinate},9]]"
    if way == "raw":
        response = ask(client, png, rows)
    else:
        request = '{"boxes":[[[0,0,5,5]],' + rows + '],"transform":"whole:32"}'
        response = client.post(
            "/v1/features", files=[("image", ("a", png)), ("image", ("b", png)), ("request", (None, request))]
        )
    body = response.json()
    assert (response.status_code, body["code"], body["index"], body["image"]) == (422, "bad_box", 1, 0 if way == "raw" else 1)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[1,2,3,4]", "bad_box"),
        ("[[1,2,3]]", "bad_box"),
        ("[[1,2,3,4,5]]", "bad_box"),
        ("[[[1,2,3,4]]]", "bad_box"),
        ("{}", "bad_box"),
        ("null", "bad_box"),
        ("7", "bad_box"),
        ("[[1,2,3,4]", "bad_json"),
        ("[" * 100_000, "bad_json"),
        ("[[0,0,9," + "9" * 5000 + "]]", "bad_json"),
    ],
)
def test_boxes_that_are_no_rows_of_four_are_refused(client, png, text, code):
    response = client.post("/v1/features", files={"image": ("a", png), "request": (None, '{"boxes":[' + text + "]}")})
    assert (response.status_code, response.json()["code"]) == (CODE_STATUS[code], code)


CODE_STATUS = {"bad_box": 422, "bad_json": 400}


@pytest.mark.parametrize("boxes", [[], [[], []], [[[1, 2, 9, 9]], []], {}, "x", 3])
def test_boxes_need_one_list_per_image(client, png, post, boxes):
    response = post(client, [png], boxes=boxes)
    assert (response.status_code, response.json()["code"]) == (422, "bad_request")


def test_an_image_without_boxes_gives_no_vectors(client, png, post):
    (image,) = post(client, [png], boxes=[[]]).json()["images"]
    assert (image["boxes"], image["clipped"], image["regions"]) == ([], [], [])


def test_a_huge_box_is_the_whole_image(client, png):
    huge, whole = ask(client, png, "[[-1e30,-1e30,1e30,1e30],[0,0,120,90]]").json()["images"][0]["regions"]
    assert huge == whole


def test_a_box_that_the_transform_cuts_off_is_refused_and_not_answered_with_zeros(client, png, post_raw):
    edge = [[10, 10, 60, 60], [0, 10, 4, 60]]  # the centre crop takes 78 of the 120 columns
    assert post_raw(client, png, boxes=edge).status_code == 200
    body = post_raw(client, png, boxes=edge, transform="eval").json()
    assert (body["code"], body["index"]) == ("bad_box", 1) and "`whole`" in body["detail"]


def test_a_box_too_thin_for_float32_is_refused():
    with pytest.raises(Refusal, match="box 1 of image 3 is empty"):
        place_boxes([[1, 2, 3, 4], [100, 0, 100 + 1e-9, 5]], 3, (W, H), Affine(2.0, 2.0), (240, 180))


def test_boxes_are_carried_into_the_network_input():
    regions = place_boxes([[-10, 20, 30, 40]], 0, (W, H), Affine(2.0, 0.5, 1.0, 0.0), (241, 45))
    assert regions.upright.tolist() == [[0, 20, 30, 40]]
    assert regions.inputs.tolist() == [[1, 10, 61, 20]]
    assert regions.clipped == (True,)
