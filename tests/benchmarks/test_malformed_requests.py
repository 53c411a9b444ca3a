"""Malformed requests: which outcomes count as correct, and that the real server has no others."""

import itertools
import json
from functools import wraps
from types import SimpleNamespace

import malformed_requests
import numpy as np
import pytest
from own_server import serving
from request_kinds import Expected, Request, good_requests, odd_requests
from support.models import write_grains
from support.triton import HAS_SERVER, NO_SERVER, write_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.serving.load import Body

real = pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)
NAMES = ("rice", "rice_bytes")
NOTHING = Body(b"", {})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_grains(tmp_path_factory.mktemp("images"), 12)


@pytest.fixture
def predictor(model):
    with open_predictor(model) as opened:
        yield opened


def response(variety, scores):
    columns = {"variety": np.array([[variety.encode()]], np.object_), "scores": np.array([scores])}
    return SimpleNamespace(as_numpy=columns.__getitem__)


@pytest.mark.parametrize(
    ("status", "result", "fault"),
    [
        ("200", response("Basmati", [0.1, 0.9]), None),
        ("OK", response("Basmati", [0.1, 0.900009]), None),
        ("200", response("Basmati", [0.1, 0.90002]), "scores are 2.0e-05 apart"),
        ("200", response("Jasmine", [0.1, 0.9]), "predicted Jasmine for Basmati"),
        ("503", "too many wait", "status 503: too many wait"),
        ("none", "no response (TimeoutError: timed out)", "status none: no response"),
    ],
)
def test_a_good_request_must_be_predicted_correctly(predictor, status, result, fault):
    request = Request("files", "rice_bytes", NOTHING, Expected(("Basmati",), np.array([[0.1, 0.9]])))
    found = malformed_requests.fault(request, status, result, predictor)
    assert found is None if fault is None else found.startswith(fault)


@pytest.mark.parametrize(
    ("status", "message", "fault"),
    [
        ("400", "the file is empty", None),
        ("INVALID_ARGUMENT", "the file is empty", None),
        ("400", "bad request", "status 400: bad request"),  # does not say why
        ("500", "the file is empty", "status 500"),  # blames the server
        ("200", "Basmati", "was not rejected"),
        ("none", "no response", "status none"),
    ],
)
def test_a_malformed_request_must_be_rejected_with_the_reason(predictor, status, message, fault):
    request = Request("empty", "rice_bytes", NOTHING, message="is empty")
    found = malformed_requests.fault(request, status, message, predictor)
    assert found is None if fault is None else found.startswith(fault)


def test_one_request_in_twenty_is_odd_and_the_order_is_the_same_every_time(predictor, images, tmp_path):
    plan, again = (malformed_requests.planned(predictor, images, tmp_path, 440) for _ in range(2))
    assert [(one.kind, one.body) for one in plan] == [(one.kind, one.body) for one in again]
    odd = [request.kind for request in plan if request.kind not in malformed_requests.SHARES]
    assert len(odd) == 440 // 20
    assert set(odd) == {one.kind for one in odd_requests(predictor, NAMES, images[0], tmp_path, 32)}


def test_good_requests_go_over_all_images_by_both_protocols(predictor, images):
    made = good_requests(predictor, NAMES, images, np.random.default_rng(0))
    assert set(made) == set(malformed_requests.SHARES)
    for requests in made.values():
        assert sum(len(request.expected.varieties) for request in requests) == len(images)


@real
@pytest.mark.slow
def test_the_real_server_has_no_faults_among_malformed_requests(model, images, tmp_path, capsys):
    kept = tmp_path / "malformed.json"
    options = ["--model", model, "--images", images[0].parent, "--requests", 440, "--concurrency", 16, "--output", kept]
    status = malformed_requests.main([*map(str, options)])
    found = json.loads(kept.read_text())
    assert found["faults"] == []
    assert status == 0
    assert sum(tally["sent"] for tally in found["kinds"].values()) == 440
    assert len(found["memory_mib"]) == 11
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert "too large (30,000 x 30,000" in shown


@real
@pytest.mark.slow
def test_a_file_whose_length_lies_fails_alone(model, images, predictor, tmp_path):
    good = good_requests(predictor, NAMES, images, np.random.default_rng(0))["files, HTTP"]
    bad = next(one for one in odd_requests(predictor, NAMES, images[0], tmp_path, 32) if "lies" in one.kind)
    plan = [request for one in itertools.islice(itertools.cycle(good), 100) for request in (one, bad)]
    with serving(model, tmp_path, 32) as server:
        sender = malformed_requests.Sender(server, predictor, len(plan))
        sender.send(plan, concurrency=16)
    assert {kind: tally.faults for kind, tally in sender.tallies.items()} == {"files, HTTP": [], bad.kind: []}


def test_a_fault_is_printed_and_is_the_exit_status(monkeypatch, images, capsys):
    found = {
        "kinds": {}, "requests": 1, "concurrency": 1, "seconds": 1.0, "memory_mib": [1.0],
        "faults": ["the server was not ready at the end"],
    }  # fmt: skip
    measure = malformed_requests.measure
    monkeypatch.setattr(malformed_requests, "measure", wraps(measure)(lambda *_: found))
    assert malformed_requests.main(["--images", str(images[0].parent)]) == 1
    assert "the server was not ready at the end" in capsys.readouterr().out
