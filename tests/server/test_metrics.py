"""Counters: right, closed in their labels, readable by Prometheus's own parser, one set per app."""

import re

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from wire import wait_for

from insloc_server.app import create_app
from insloc_server.metrics import Metrics, route_of


@pytest.fixture
def fresh(extractor, make_settings):
    with TestClient(create_app(make_settings(), extractor)) as client:
        yield client


def samples(client):
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_requests_images_and_boxes_are_counted(fresh, png, post, post_raw, extractor):
    post(fresh, [png, png], boxes=[[[0, 0, 9, 9]], [[0, 0, 9, 9], [1, 1, 5, 5]]], transform="whole:32")
    post_raw(fresh, png, boxes=[[9, 9, 0, 0]])
    fresh.get("/wp-login.php?a=1")
    found = samples(fresh)
    total = "insloc_requests_total"
    assert found[(total, ("code", "ok"), ("route", "/v1/features"))] == 1
    assert found[(total, ("code", "bad_box"), ("route", "/v1/features"))] == 1
    assert found[(total, ("code", "not_found"), ("route", "other"))] == 1
    assert (found[("insloc_images_total",)], found[("insloc_boxes_total",)]) == (2, 3)
    assert found[("insloc_request_seconds_count", ("route", "/v1/features"))] == 2
    assert found[("insloc_stage_seconds_count", ("stage", "infer"))] == 1
    assert found[("insloc_model_info", ("model", "random:resnet18@1"), ("revision", extractor.sha256))] == 1
    wait_for(lambda: samples(fresh)[("insloc_batch_images_sum",)] == 1 + 2)  # the selftest's own, first
    assert found[("insloc_queue_bytes",)] == 0 and found[("insloc_cancelled_total",)] == 0
    assert found[("insloc_queue_images",)] == 0 and found[("insloc_queue_oldest_seconds",)] == 0
    assert found[("process_resident_memory_bytes",)] > 1e7


def test_what_a_client_writes_becomes_no_label(fresh, png):
    before = {key for key in samples(fresh) if key[0] == "insloc_requests_total"}
    for number in range(5):
        fresh.get(f"/v1/models/name{number}", headers={"x-request-id": f"id{number}"})
        fresh.request(f"VERB{number}", f"/path{number}")
    after = {key for key in samples(fresh) if key[0] == "insloc_requests_total"}
    assert len(after - before) <= 4
    assert not re.search(r"name\d|id\d|path\d|VERB", str(after))


def test_each_model_that_is_loaded_now_has_its_line():
    metrics = Metrics()
    assert metrics.text([("a", "1"), ("b", "2")]).count(b"insloc_model_info{") == 2
    assert b'insloc_model_info{model="b",revision="2"} 1.0' in metrics.text([("b", "2")]).splitlines()
    assert b'model="a"' not in metrics.text([("b", "2")])


def test_the_gauge_shows_what_is_in_work(gated, make_settings, png, post):
    import threading

    extractor, gate = gated
    with TestClient(create_app(make_settings(), extractor)) as client:
        gate.shut()
        threads = [threading.Thread(target=post, args=(client, [png, png])) for _ in range(2)]
        threads[0].start()
        assert gate.reached.wait(30)
        threads[1].start()
        for _ in range(500):
            if samples(client)[("insloc_queue_oldest_seconds",)] > 0:
                break
        assert samples(client)[("insloc_queue_images",)] == 4
        gate.open.set()
        for thread in threads:
            thread.join(30)
        assert samples(client)[("insloc_queue_images",)] == 0


def test_two_apps_count_apart(fresh, client, png, post_raw):
    before = samples(client)[("insloc_images_total",)]
    post_raw(fresh, png)
    assert samples(fresh)[("insloc_images_total",)] == 1
    assert samples(client)[("insloc_images_total",)] == before


def test_a_request_id_is_kept_if_it_is_short_and_printable(client):
    ids = {
        given: client.get("/livez", headers={"x-request-id": given}).headers["x-request-id"]
        for given in ("abc-1", "x" * 65, "a b")
    }
    assert ids["abc-1"] == "abc-1"
    assert all(re.fullmatch(r"[0-9a-f]{32}", ids[given]) for given in ("x" * 65, "a b"))
    assert "x-insloc-code" not in client.get("/nowhere").headers


@pytest.mark.parametrize(("path", "route"), [("/v1/features", "/v1/features"), ("/v1/featuresx", "other"), ("/", "other")])
def test_a_path_has_one_of_few_labels(path, route):
    assert route_of(path) == route
