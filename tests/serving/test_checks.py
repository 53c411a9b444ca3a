"""The checks of notebook 07, on a real server."""

from contextlib import contextmanager

import numpy as np
import pytest
from support.triton import HAS_SERVER, NO_SERVER, make_checkout, write_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import RiceError
from rice_lib.common.run import Run
from rice_lib.serving import checks
from rice_lib.serving.load import bodies, measure_point
from rice_lib.serving.repository import Repository, drawn_grain, write_repository


def open_run(folder, monkeypatch, environment, **sections):
    monkeypatch.delenv("RICE_SERVE_ENV", raising=False)
    monkeypatch.setenv("RICE_ROOT", str(make_checkout(folder, environment)))
    run = Run.open("tiny", **sections)
    serve = run.params.serve
    write_repository(run.paths.onnx / "model.onnx", run.paths.repository, serve.model_name, serve.max_batch_size)
    return run


def test_without_an_environment_there_is_a_reason_and_nothing_to_check(tmp_path, monkeypatch):
    service = checks.connect(open_run(tmp_path / "root", monkeypatch, environment=False))
    assert "make serve-env" in service.missing
    assert (service.server, service.address, service.clients) == (None, {}, {})
    assert checks.parity(service.clients, None, [], 83, 1e-3).empty
    assert checks.malformed(service.address, "rice", 8).empty


def test_a_broken_environment_is_an_error_and_no_excuse(tmp_path, monkeypatch):
    run = open_run(tmp_path / "root", monkeypatch, environment=False)
    python = run.paths.root / ".venv-serve" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(RiceError, match="broken"):
        checks.connect(run)


def test_a_url_where_nobody_answers_is_an_error_and_no_excuse(tmp_path, monkeypatch):
    run = open_run(tmp_path / "root", monkeypatch, environment=False, serve={"url": "127.0.0.1:1"})
    with pytest.raises(RiceError, match="no server answers"):
        checks.connect(run)


def test_grpc_is_the_next_port_up():
    assert checks.endpoints("box.example:8000") == {"http": "box.example:8000", "grpc": "box.example:8001"}


@pytest.mark.parametrize("url", ["box", "http://box:8000", "box:http", ":8000", "box:8000/v2"])
def test_a_url_that_is_no_address_is_named(url):
    with pytest.raises(RiceError, match=r"serve\.url"):
        checks.endpoints(url)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)
def test_every_check_on_a_real_server_and_again_by_its_url(tmp_path, monkeypatch):
    run = open_run(tmp_path / "root", monkeypatch, environment=True, serve={"ready_timeout_s": 180})
    service = checks.connect(run)
    try:
        check_all(run, service)
    finally:
        close(service)  # the server waits for open connections
        service.server.stop()
    assert service.server.leftovers() == []


def close(service):
    for client in service.clients.values():
        client.close()


@contextmanager
def failed_check(match):
    """A fault of the server ends with status 1; that of an input with 2."""
    with pytest.raises(RiceError, match=match) as caught:
        yield
    assert caught.value.status == 1


def check_all(run, service):
    reference = open_predictor(run.paths.onnx / "model.onnx")
    table = checks.parity(service.clients, reference, [1, 3, 8], 83, 1e-3)
    assert list(table["same prediction"]) == [1, 1, 3, 3, 8, 8]
    assert set(checks.malformed(service.address, "rice", 8)["status"]) == {
        "400", "404", "INVALID_ARGUMENT", "NOT_FOUND"
    }  # fmt: skip
    files = checks.files(service.address["http"], "rice_bytes", reference)
    assert set(files["HTTP status"]) == {200, 400}
    assert (files["difference"] <= checks.SCORE_TOLERANCE).all()

    point = measure_point(
        service.address["http"], "rice_bytes", bodies([drawn_grain()], 2), concurrency=2, batch=2, seconds=0.3
    )
    assert point["images_per_s"] > 0
    assert point["failed"] == 0
    repository = Repository(run.paths.repository)
    switched = checks.switch_under_load(repository, service.server)
    assert set(switched["version"]) == {"1", "2"}
    assert sorted(repository.versions()) == [1]

    other = checks.connect(Run.open("tiny", serve={"url": service.server.http}))
    assert other.server is None
    assert len(checks.parity(other.clients, reference, [1], 83, 1e-3)) == 2
    close(other)
    assert service.server.is_ready()  # a server that someone else started is left alone

    # a server that gives another model's numbers fails
    write_onnx(run.paths.onnx / "other.onnx", ("Arborio", "Basmati", "Ipsala", "Jasmine", "Other"))
    wrong = open_predictor(run.paths.onnx / "other.onnx")
    with failed_check("labels"):
        checks.parity(service.clients, wrong, [1], 83, 1e-3)
    for shift, match in ((1, "logits differ by 1"), (np.nan, "logits differ by nan")):
        shifted = type(
            "Shifted", (), {"labels": reference.labels, "logits": lambda _, x, by=shift: reference.logits(x) + by}
        )()
        with failed_check(match):
            checks.parity(service.clients, shifted, [1], 83, 1e-3)
    with failed_check("rice infer"):
        checks.files(service.address["http"], "rice_bytes", wrong)
