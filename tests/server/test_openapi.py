"""Every example of /openapi.json is posted; every problem it shows is one of ours."""

import json
import re

import pytest

from insloc_server.openapi import EMBEDDINGS_EXAMPLES, FORM_EXAMPLES, JSON_EXAMPLES, QUERY_EXAMPLES
from insloc_server.problems import CODES
from insloc_server.schema import RawQuery


@pytest.fixture(scope="module")
def description(client):
    return client.get("/openapi.json").json()


@pytest.fixture(scope="module")
def body(description):
    return description["paths"]["/v1/features"]["post"]["requestBody"]["content"]


@pytest.mark.parametrize("name", FORM_EXAMPLES)
def test_an_example_of_the_multipart_form_is_answered(client, body, png, name):
    request = body["multipart/form-data"]["examples"][name]["value"]["request"]
    response = client.post("/v1/features", files={"image": ("a.png", png), "request": (None, json.dumps(request))})
    assert response.status_code == 200, response.text
    asked = set(request.get("outputs", ["pooled", "regions"] if "boxes" in request else ["pooled"]))
    assert response.json()["spaces"].keys() == asked


@pytest.mark.parametrize("name", QUERY_EXAMPLES)
def test_an_example_of_a_raw_body_is_answered(client, body, png, name):
    for kind in ("image/jpeg", "image/png", "image/webp", "image/bmp"):
        query = body[kind]["examples"][name]["summary"]
        response = client.post(f"/v1/features{query}", content=png, headers={"content-type": kind})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(("path", "examples"), [("/v1/features", JSON_EXAMPLES), ("/v1/embeddings", EMBEDDINGS_EXAMPLES)])
def test_an_example_of_a_json_body_is_answered(client, description, path, examples):
    shown = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert {name: one["value"] for name, one in shown["examples"].items()} == examples
    for value in [*examples.values(), *shown["schema"].get("examples", [])]:
        response = client.post(path, json=value)
        assert response.status_code == 200, response.text


def test_no_reference_of_the_description_leads_nowhere(description):
    names = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(description)))
    assert names <= description["components"]["schemas"].keys() and "$defs" not in json.dumps(description)


def test_the_examples_of_the_models_are_answered(client, description, png):
    schema = description["paths"]["/v1/features"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    (example,) = schema["properties"]["request"]["examples"]
    assert client.post("/v1/features", files={"image": png, "request": (None, json.dumps(example))}).status_code == 200
    parameters = {one["name"]: one for one in description["paths"]["/v1/features"]["post"]["parameters"]}
    assert parameters.keys() == {*RawQuery.model_fields, "X-Deadline-Ms"}
    boxes = json.dumps(parameters["boxes"])
    assert "[[10,12,60,48]]" in boxes
    response = client.post(
        "/v1/features", content=png, params={"boxes": "[[10,12,60,48]]"}, headers={"content-type": "image/png"}
    )
    assert response.status_code == 200


def test_every_code_is_described_at_its_status(description):
    responses = description["paths"]["/v1/features"]["post"]["responses"]
    shown = {
        (int(status), code, example["value"]["status"], example["value"]["code"])
        for status, response in responses.items()
        if status != "200"
        for code, example in response["content"]["application/problem+json"]["examples"].items()
    }
    assert shown == {(status, code, status, code) for code, (status, _) in CODES.items()}


def test_a_real_answer_fits_the_described_one(client, png, post, description):
    from insloc_server.schema import FeaturesAnswer, ModelList, ProblemBody

    for encoding in ("float", "base64"):
        answer = post(client, [png], boxes=[[[0, 0, 9, 9]]], outputs=["pooled", "map", "regions"], encoding=encoding).json()
        parsed = FeaturesAnswer.model_validate(answer)
        assert json.loads(parsed.model_dump_json(exclude_unset=True)) == answer  # nothing undescribed, nothing missing
    models = client.get("/v1/models").json()
    assert json.loads(ModelList.model_validate(models).model_dump_json()) == models
    problem = client.get("/nowhere").json()
    assert ProblemBody.model_validate(problem).model_dump(exclude_none=True) == problem
    names = description["components"]["schemas"]
    assert {"FeaturesAnswer", "ModelList", "ProblemBody"} <= names.keys()
