"""Malformed requests: what counts as a right answer and a right refusal, and that the real server keeps to it."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hostile_requests import Answer, Request, good_requests, odd_requests
from rice_lib.benchmark import __main__ as command
from rice_lib.benchmark import hostile
from support.models import write_grains
from support.triton import HAS_SERVER, NO_SERVER, write_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.serving.load import Body
from rice_lib.serving.processes import serving

real = pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)
NAMES = ("rice", "rice_bytes")
NOTHING = Body(b"", None)


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


def told(variety, scores):
    columns = {"variety": np.array([[variety.encode()]], np.object_), "scores": np.array([scores])}
    return SimpleNamespace(as_numpy=columns.__getitem__)


@pytest.mark.parametrize(
    ("status", "answer", "wrong"),
    [
        ("200", told("Basmati", [0.1, 0.9]), None),
        ("OK", told("Basmati", [0.1, 0.900009]), None),
        ("200", told("Basmati", [0.1, 0.90002]), "scores are 2.0e-05 apart"),
        ("200", told("Jasmine", [0.1, 0.9]), "told Jasmine for Basmati"),
        ("503", "too many wait", "status 503: too many wait"),
        ("none", "no answer (TimeoutError: timed out)", "status none: no answer"),
    ],
)
def test_a_good_request_must_be_told_right(predictor, status, answer, wrong):
    request = Request("files", "rice_bytes", NOTHING, Answer(("Basmati",), np.array([[0.1, 0.9]])))
    found = hostile.fault(request, status, answer, predictor)
    assert found is None if wrong is None else found.startswith(wrong)


@pytest.mark.parametrize(
    ("status", "message", "wrong"),
    [
        ("400", "the file is empty", None),
        ("INVALID_ARGUMENT", "the file is empty", None),
        ("400", "bad request", "status 400: bad request"),  # does not say why
        ("500", "the file is empty", "status 500"),  # blames the server
        ("200", "Basmati", "was answered"),
        ("none", "no answer", "status none"),
    ],
)
def test_a_bad_request_must_be_refused_with_the_reason(predictor, status, message, wrong):
    found = hostile.fault(Request("empty", "rice_bytes", NOTHING, says="is empty"), status, message, predictor)
    assert found is None if wrong is None else found.startswith(wrong)


def test_one_request_in_twenty_is_odd_and_the_order_is_the_same_every_time(predictor, images, tmp_path):
    plan, again = (hostile.planned(predictor, images, tmp_path, 440) for _ in range(2))
    assert [(one.kind, one.body) for one in plan] == [(one.kind, one.body) for one in again]
    odd = [request.kind for request in plan if request.kind not in hostile.SHARES]
    assert len(odd) == 440 // 20
    assert set(odd) == {one.kind for one in odd_requests(predictor, NAMES, images[0], tmp_path, 32)}


def test_good_requests_go_over_all_images_by_both_protocols(predictor, images):
    made = good_requests(predictor, NAMES, images, np.random.default_rng(0))
    assert set(made) == set(hostile.SHARES)
    for requests in made.values():
        assert sum(len(request.answer.varieties) for request in requests) == len(images)


@real
def test_the_real_server_keeps_every_promise_among_malformed_requests(model, images, tmp_path, capsys):
    kept = tmp_path / "hostile.json"
    options = ["--model", model, "--images", images[0].parent, "--requests", 440, "--concurrency", 16, "--output", kept]
    status = command.main(["hostile", *map(str, options)])
    found = json.loads(kept.read_text())
    assert found["wrong"] == []
    assert status == 0
    assert sum(tally["sent"] for tally in found["kinds"].values()) == 440
    assert len(found["memory_mib"]) == 11
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert "too large (30,000 x 30,000" in shown


@real
def test_a_file_whose_length_lies_fails_alone(model, images, predictor, tmp_path):
    good = good_requests(predictor, NAMES, images, np.random.default_rng(0))["files, HTTP"]
    bad = next(one for one in odd_requests(predictor, NAMES, images[0], tmp_path, 32) if "lies" in one.kind)
    plan = [request for one in itertools.islice(itertools.cycle(good), 100) for request in (one, bad)]
    with serving(model, tmp_path, 32) as server:
        run = hostile.Run(server, predictor, plan, concurrency=16)
        run.all()
    assert {kind: tally.wrong for kind, tally in run.tallies.items()} == {"files, HTTP": [], bad.kind: []}


def test_a_broken_promise_is_told_and_is_the_exit_status(monkeypatch, images, capsys):
    broken = {
        "kinds": {}, "requests": 1, "concurrency": 1, "seconds": 1.0, "memory_mib": [1.0],
        "wrong": ["the server was not ready at the end"],
    }  # fmt: skip
    monkeypatch.setattr(hostile, "measure", lambda *_: broken)
    assert command.main(["hostile", "--images", str(images[0].parent)]) == 1
    assert "the server was not ready at the end" in capsys.readouterr().out
