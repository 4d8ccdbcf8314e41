"""A model that computes something else than at its start says so itself."""

import base64

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from insloc_hub import load
from insloc_server.app import create_app
from insloc_server.schema import SelfTest
from insloc_server.selftest import PICTURE

FROZEN = [0.0, 0.017201, 0.009628, 0.0, 1.024156]
"""The first numbers and the norm, by insloc_hub.load("random:resnet18@1", "cpu") on 25 November 2026 (torch 2.15)."""

PATH = "/v1/models/random:resnet18@1/selftest"


def test_a_sound_model_passes_with_the_library_s_vector(client, extractor):
    response = client.get(PATH)
    answer = response.json()
    assert response.status_code == 200 and SelfTest.model_validate(answer)
    assert answer["ok"] and min(answer["cosine"], answer["cosine_plain"]) > 0.999999
    got = np.frombuffer(base64.b64decode(answer["vector"]["data"]), "<f4")
    assert np.allclose(got, extractor([PICTURE.read_bytes()]).pooled[0].numpy(), rtol=0, atol=1e-5)
    png = client.post("/v1/features", content=PICTURE.read_bytes(), headers={"content-type": "image/png"}).json()
    assert answer["space"] == png["spaces"]["pooled"]


def test_the_vector_of_the_stored_picture_is_the_frozen_one(client):
    data = base64.b64decode(client.get(PATH).json()["vector"]["data"])
    got = np.frombuffer(data, "<f4").astype(float)
    assert got[:4] == pytest.approx(FROZEN[:4], abs=1e-4) and np.linalg.norm(got) == pytest.approx(FROZEN[4], abs=1e-3)


def test_a_model_whose_weights_changed_in_memory_fails(make_settings):
    extractor = load("random:resnet18@1", "cpu")
    with TestClient(create_app(make_settings(), extractor)) as client:
        assert client.get(PATH).json()["ok"]
        with torch.no_grad():
            extractor.model.layer4[1].bn2.bias += torch.linspace(-1, 1, 512)
        answer = client.get(PATH).json()
        assert not answer["ok"] and min(answer["cosine"], answer["cosine_plain"]) < 0.99


def test_another_model_has_no_selftest_here(client):
    assert client.get("/v1/models/resnet50/selftest").json()["code"] == "model_not_found"
