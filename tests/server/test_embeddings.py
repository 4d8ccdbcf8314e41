"""The adapter for clients that speak /v1/embeddings: the pooled vectors of /v1/features, in their dialect."""

import base64
import json

import numpy as np
import pytest

from insloc_server.schema import EmbeddingsAnswer


def text(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def post(client, **body):
    return client.post("/v1/embeddings", json=body)


@pytest.fixture(scope="module")
def wanted(extractor, png):
    return extractor([png]).pooled[0].numpy()


@pytest.mark.parametrize(
    ("form", "count"),
    [
        (lambda uri: uri, 1),
        (lambda uri: {"image": uri}, 1),
        (lambda uri: [uri], 1),
        (lambda uri: [uri.split(",")[1], {"image": uri}, uri], 3),
    ],
)
@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_every_form_of_input_gives_the_library_s_vectors(client, png, wanted, form, count, encoding):
    ask = {} if encoding is None else {"encoding_format": encoding}
    response = post(client, input=form(text(png)), **ask)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [one["index"] for one in answer["data"]] == list(range(count))
    for one in answer["data"]:
        value = one["embedding"]
        assert isinstance(value, str) == (encoding == "base64")
        vector = np.frombuffer(base64.b64decode(value), "<f4") if isinstance(value, str) else np.array(value)
        assert np.allclose(vector, wanted, rtol=0, atol=1e-5)


def test_the_rest_of_the_answer_is_what_such_clients_read(client, extractor, png, post_raw):
    response = post(client, input=text(png), model="random:resnet18@1", user="ann", modality="image", dimensions=None)
    answer = response.json()
    assert {name: answer[name] for name in ("object", "model", "usage")} == {
        "object": "list",
        "model": "random:resnet18@1",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
    assert answer["space"] == post_raw(client, png).json()["spaces"]["pooled"]
    assert json.loads(EmbeddingsAnswer.model_validate(answer).model_dump_json()) == answer
    assert response.headers["x-model-revision"] == extractor.sha256 and "infer;dur=" in response.headers["server-timing"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "bad_request"),
        ({"input": []}, 422, "bad_request"),
        ({"input": 5}, 422, "bad_request"),
        ({"input": [[1, 2]]}, 422, "bad_request"),
        ({"input": "a cat"}, 422, "bad_request"),
        ({"input": {"text": "a cat"}}, 422, "bad_request"),
        ({"input": "https://example.org/cat.png"}, 422, "bad_request"),
        ({"input": {"image": "https://example.org/cat.png"}}, 422, "bad_request"),
        ({"input": "aaaa"}, 415, "unsupported_image"),
        ({"input": ["aaaa"] * 33}, 422, "bad_request"),
        ({"input": "aaaa", "dimensions": 64}, 422, "bad_request"),
        ({"input": "aaaa", "encoding_format": "int8"}, 422, "bad_request"),
        ({"input": "aaaa", "modality": "audio"}, 422, "bad_request"),
        ({"input": "aaaa", "boxes": [[]]}, 422, "bad_request"),
        ({"input": "aaaa", "model": "clip"}, 404, "model_not_found"),
    ],
)
def test_what_has_no_sense_for_images_is_refused(client, body, status, code):
    response = post(client, **body)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def test_only_json_goes_in_and_out(client, png):
    form = client.post("/v1/embeddings", files={"image": png})
    assert (form.status_code, form.json()["code"]) == (415, "unsupported_media_type")
    tensors = client.post("/v1/embeddings", json={"input": text(png)}, headers={"accept": "application/vnd.safetensors"})
    assert (tensors.status_code, tensors.json()["code"]) == (406, "not_acceptable")
