"""Several models: loaded when first asked for, once, beside the others; the unused make room."""

import threading
import time

import pytest
import torch
from fastapi.testclient import TestClient

from insloc_hub import load
from insloc_hub.errors import InslocError
from insloc_server.app import create_app
from insloc_server.engine import Engine
from insloc_server.models import TRY_AGAIN_S, Models, named
from insloc_server.problems import Refusal

FIRST, SECOND, THIRD = (f"random:resnet18@{seed}" for seed in (1, 2, 3))
PIXELS = torch.zeros(3, 40, 40, dtype=torch.uint8)


class Loader:
    """Loads as the server does, when it may; notes what it was asked for."""

    def __init__(self):
        self.asked = []
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def __call__(self, spec):
        self.asked.append(spec)
        assert self.go.wait(30)
        if self.fails:
            raise InslocError("no such file: /secret/path")
        return load(spec, "cpu")


@pytest.fixture
def served(extractor, make_settings):
    running = []

    def serve(**changes):
        settings = make_settings(model=f"{FIRST},{SECOND},{THIRD}", **changes)
        first = Engine(extractor, settings)
        first.start()
        first.warm.result(30)
        loader = Loader()
        there = Models(settings, first, loader)
        running.append((there, first))
        return there, loader

    yield serve
    for there, first in running:
        there.close()
        first.close()


def ready(there, name, seconds=30):
    end = time.monotonic() + seconds
    while True:
        try:
            return there.get(name)
        except Refusal as refusal:
            assert refusal.code == "not_ready" and time.monotonic() < end
            time.sleep(0.01)


def vector(engine):
    want = engine.want(None, "whole:32", None, False)
    return engine.submit([PIXELS], None, want).result(30).tensors[0]["pooled"]


def test_another_model_is_loaded_once_while_the_first_is_served(served):
    there, loader = served()
    loader.go.clear()
    assert (there.state(FIRST), there.state(SECOND)) == ("ready", "cold")
    for _ in range(5):
        with pytest.raises(Refusal) as caught:
            there.get(SECOND)
        assert caught.value.code == "not_ready" and caught.value.facts["retry_after"] > 0
    assert there.state(SECOND) == "loading"
    assert torch.equal(vector(there.get(None)), vector(there.get(FIRST)))  # nobody waits for the loader
    loader.go.set()
    second = ready(there, SECOND)
    wanted = load(SECOND, "cpu")([PIXELS], transform="whole:32").pooled[0]
    assert torch.allclose(vector(second), wanted, atol=1e-5)
    assert loader.asked == [SECOND] and there.state(SECOND) == "ready"


def test_models_share_the_room_and_the_thread(served):
    there, _ = served()
    second, first = ready(there, SECOND), there.get(FIRST)
    place = second.take_place(3)
    assert first.in_work == 3
    place.release()
    futures = [e.submit([PIXELS], None, e.want(None, "whole:32", None, False)) for e in (first, second) * 4]
    assert len({round(float(future.result(30).tensors[0]["pooled"].sum()), 2) for future in futures}) == 2


def test_what_was_not_asked_for_longest_makes_room_but_never_the_first(served, extractor):
    there, loader = served(model_bytes=int(2.5 * sum(t.nbytes for t in extractor.model.state_dict().values())))
    second = ready(there, SECOND)
    third = ready(there, THIRD)
    assert [there.state(name) for name in (FIRST, SECOND, THIRD)] == ["ready", "cold", "ready"]
    assert vector(second).shape == vector(third).shape  # what was asked of it before is finished
    ready(there, SECOND)
    assert [there.state(name) for name in (FIRST, SECOND, THIRD)] == ["ready", "ready", "cold"]
    assert loader.asked == [SECOND, THIRD, SECOND]
    assert [engine.name for engine in there.loaded()] == [FIRST, SECOND]


def test_a_model_that_can_t_be_loaded_is_said_so_and_tried_again_later(served, monkeypatch):
    there, loader = served()
    loader.fails = True
    with pytest.raises(Refusal, match="is being loaded"):
        there.get(SECOND)
    end = time.monotonic() + 30
    while there.state(SECOND) != "failed":
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises(Refusal) as caught:
        there.get(SECOND)
    assert caught.value.code == "not_ready" and "secret" not in caught.value.detail and len(loader.asked) == 1
    assert vector(there.get(FIRST)).shape == (512,)
    loader.fails = False
    there._failed[SECOND] -= TRY_AGAIN_S
    assert ready(there, SECOND).name == SECOND


def test_an_unknown_name_is_told_the_names_there_are(served):
    there, loader = served()
    with pytest.raises(Refusal) as caught:
        there.get("vgg")
    assert caught.value.code == "model_not_found" and all(name in caught.value.detail for name in (FIRST, SECOND, THIRD))
    with pytest.raises(Refusal, match="is not loaded"):
        there.get(SECOND, bring=False)
    assert loader.asked == []


def test_two_folders_of_one_name_are_refused(tmp_path):
    for top in ("a", "b"):
        (tmp_path / top / "card").mkdir(parents=True)
        (tmp_path / top / "card/config.json").write_text("{}")
    with pytest.raises(InslocError, match="both be called card"):
        named([str(tmp_path / "a/card"), str(tmp_path / "b/card")])


def test_models_over_http_are_listed_with_their_states_and_answer_by_name(extractor, make_settings, png, post_raw):
    with TestClient(create_app(make_settings(model=f"{FIRST},{SECOND}"), extractor)) as client:
        assert [(one["id"], one["state"]) for one in client.get("/v1/models").json()["models"]] == [
            (FIRST, "ready"),
            (SECOND, "cold"),
        ]
        assert client.get(f"/v1/models/{SECOND}").json() == {"id": SECOND, "spec": SECOND, "state": "cold"}
        assert client.get(f"/v2/models/{SECOND}/ready").status_code == 503
        early = post_raw(client, png, model=SECOND)
        assert (early.status_code, early.json()["code"]) == (503, "not_ready") and int(early.headers["retry-after"]) > 0
        end = time.monotonic() + 60
        while (answer := post_raw(client, png, model=SECOND)).status_code == 503:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert answer.json()["model"]["id"] == SECOND
        assert client.get(f"/v1/models/{SECOND}").json()["state"] == "ready"
        assert client.get(f"/v2/models/{SECOND}/ready").status_code == 200
        assert post_raw(client, png).json()["model"]["id"] == FIRST
