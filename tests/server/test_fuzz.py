"""Requests made up from our own OpenAPI description, right and wrong: no 5xx, and every answer as described."""

import json
import math
import os
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insloc_hub.boxes.means import region_means
from insloc_hub.data.transform import Affine
from insloc_server.problems import Refusal
from insloc_server.regions import place_boxes

CASES = int(os.environ.get("INSLOC_TEST_FUZZ_CASES", "2000"))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def of(schema, png):
    """What a JSON schema of ours allows; `format: binary` is a picture or any bytes."""
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*(of(one, png) for one in schema["anyOf"]))
    kind = schema.get("type")
    if kind == "object":
        fields = {name: of(one, png) for name, one in schema.get("properties", {}).items()}
        required = set(schema.get("required", []))
        return st.fixed_dictionaries(
            {name: one for name, one in fields.items() if name in required},
            optional={name: one for name, one in fields.items() if name not in required},
        )
    if kind == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems", 4)
        return st.lists(of(schema["items"], png), min_size=least, max_size=most)
    if kind == "string":
        if schema.get("format") == "binary":
            return st.just(png) | st.binary(max_size=200) | st.integers(1, len(png)).map(lambda n: png[:n])
        plain = st.text(min_size=schema.get("minLength", 0), max_size=min(30, schema.get("maxLength", 30)))
        words = ["eval", "whole", "whole:32", "whole:0", "whole:99999", "aaaa", "data:,", "http://localhost/a"]
        return plain | st.sampled_from(words)
    if kind == "integer":
        return st.integers(schema.get("minimum", -(2**70)), schema.get("maximum", 2**70))
    return {"number": st.floats(), "boolean": st.booleans(), "null": st.none()}[kind] if kind else ANYTHING


def spoilt(good):
    """Now and then something else than the schema allows."""
    return st.one_of(*[good] * 6, ANYTHING)


def text_of(value):
    return value if isinstance(value, str) else json.dumps(value)


@st.composite
def requests(draw, description, png):
    """A request of a random operation: method, path, and the client's arguments."""
    path = draw(st.sampled_from(sorted(description["paths"])))
    (method,) = description["paths"][path]
    operation = description["paths"][path][method]
    query, headers, name = [], {}, path
    for parameter in operation.get("parameters", []):
        value = draw(spoilt(of(parameter["schema"], png)))
        if parameter["in"] == "path":
            name = name.replace(
                "{name}", draw(st.sampled_from(["random:resnet18@1", "resnet50"])) if draw(st.booleans()) else "%"
            )
        elif draw(st.integers(0, 3)) == 0:
            if parameter["in"] == "header":
                headers[parameter["name"]] = text_of(value).encode("utf-8", "replace").replace(b"\n", b"").replace(b"\r", b"")
            else:
                values = value if isinstance(value, list) and parameter["name"] != "boxes" else [value]
                query += [(parameter["name"], text_of(one).encode("utf-8", "replace")) for one in values]
    arguments = {"params": query, "headers": headers}
    bodies = operation.get("requestBody", {}).get("content", {})
    if bodies:
        kind = draw(st.sampled_from(sorted(bodies)))
        body = draw(spoilt(of(bodies[kind]["schema"], png)))
        for key, value in body_of(kind, body, draw).items():
            arguments[key] = {**headers, **value} if key == "headers" else value
        headers = arguments["headers"]
    headers["accept"] = draw(
        st.sampled_from(["*/*", "*/*", "application/json", "application/vnd.safetensors", "application/x-npy", "a"])
    )
    return method, name, arguments


def body_of(kind, body, draw):
    if kind == "multipart/form-data":
        parts = body if isinstance(body, dict) else {"other": body}
        images = parts.get("image", [])
        files = [("image", ("a", data)) for data in (images if isinstance(images, list) else []) if isinstance(data, bytes)]
        rest = [(name[:20] or "x", (None, json.dumps(value))) for name, value in parts.items() if name != "image"]
        return {"files": [*files, *rest] or [("image", ("a", b""))]}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()[: draw(st.sampled_from([None, None, None, -1]))]
    return {"content": content, "headers": {"content-type": draw(st.sampled_from([kind, kind, kind, "text/plain"]))}}


def check(client, description, request):
    method, path, arguments = request
    response = client.request(method.upper(), path, **arguments)
    assert response.status_code < 500, (request, response.text)
    if response.status_code >= 400:
        problem = response.json()
        assert response.headers["content-type"] == "application/problem+json" and problem["status"] == response.status_code
        assert len(problem["detail"]) > 10
    return response.status_code


def run(client, png, cases):
    description = client.get("/openapi.json").json()
    seen = []

    @settings(max_examples=cases, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(requests(description, png))
    def one(request):
        seen.append(check(client, description, request))

    one()
    return seen


@pytest.fixture(scope="module")
def small(picture, packed):
    return packed(picture.resize((24, 20)))


def test_no_request_of_the_description_s_kind_is_our_fault(client, small):
    seen = run(client, small, 100)
    assert {200, 404, 422} <= set(seen)


@pytest.mark.slow
def test_none_of_thousands_is_either(client, small):
    seen = run(client, small, CASES)
    assert len(seen) >= CASES and {200, 400, 404, 406, 415, 422} <= set(seen)


def test_ten_thousand_odd_boxes_crash_nothing():
    """Each goes the whole way of a box: judged, clipped, carried, pooled. A native op ended the process at one NaN."""
    draw = random.Random(9)
    odd = [
        math.nan,
        math.inf,
        -math.inf,
        1e30,
        -1e30,
        1e308,
        -1e308,
        10**30,
        -(10**400),
        0,
        -0.0,
        64,
        48,
        -5,
        5e-324,
        None,
        "1",
    ]
    affine = Affine(sx=0.5, sy=0.5)
    one_map = torch.rand(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    refused = 0
    for number in range(10_000):
        box = [draw.choice(odd) if draw.random() < 0.4 else draw.uniform(-40, 100) for _ in range(draw.choice([4] * 9 + [3]))]
        if number % 2 and all(isinstance(v, float) for v in box) and len(box) == 4:
            box = [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]
        try:
            regions = place_boxes([box], 0, (64, 48), affine, (32, 24))
        except Refusal as error:
            assert error.code == "bad_box" and error.facts == {"index": 0, "image": 0}
            refused += 1
            continue
        assert bool(region_means(one_map, [regions.inputs], 1 / 16)[0].isfinite().all())
    assert 2_000 < refused < 9_500
