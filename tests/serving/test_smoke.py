import pytest
from support.triton import HAS_SERVER, NO_SERVER, make_checkout, write_onnx

from rice_lib.common.errors import RiceError
from rice_lib.common.run import Run
from rice_lib.serving import promises
from rice_lib.serving import smoke as module
from rice_lib.serving.repository import write_repository
from rice_lib.serving.smoke import BrokenPromiseError, SmokeTest, endpoints

CHECKS = ("readiness", "metadata", "parity", "refusals", "classification", "latency", "end")
METRICS = {
    "serve/ready_s",
    "serve/parity_max_abs_b1",
    "serve/parity_max_abs_b3",
    "serve/parity_max_abs_bmax",
    "serve/refused",
    "serve/latency_ms_http_b1",
    "serve/latency_ms_grpc_b1",
    "serve/stop_s",
}


def open_run(folder, monkeypatch, environment, **sections):
    monkeypatch.delenv("RICE_SERVE_ENV", raising=False)
    monkeypatch.setenv("RICE_ROOT", str(make_checkout(folder, environment)))
    run = Run.open("tiny", **sections)
    serve = run.params.serve
    write_repository(run.paths.onnx / "model.onnx", run.paths.repository, serve.model_name, serve.max_batch_size)
    return run


def test_without_an_environment_every_check_says_that_it_was_not_measured(tmp_path, monkeypatch):
    smoke = SmokeTest.begin(open_run(tmp_path / "root", monkeypatch, environment=False))
    for check in CHECKS:
        (text,) = getattr(smoke, check)()["result"]
        assert text.startswith("not measured here: ")
        assert "make serve-env" in text
    assert set(smoke.metrics) == METRICS
    assert all(metric.value is None and "not measured here" in metric.how for metric in smoke.metrics.values())


def test_a_broken_environment_is_an_error_and_no_excuse(tmp_path, monkeypatch):
    run = open_run(tmp_path / "root", monkeypatch, environment=False)
    python = run.paths.root / ".venv-serve" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(RiceError, match="broken"):
        SmokeTest.begin(run)


def test_a_url_where_nobody_answers_is_an_error_and_no_excuse(tmp_path, monkeypatch):
    run = open_run(tmp_path / "root", monkeypatch, environment=False, serve={"url": "127.0.0.1:1"})
    with pytest.raises(RiceError, match="no server answers"):
        SmokeTest.begin(run)


def test_grpc_is_the_next_port_up():
    assert endpoints("box.example:8000") == {"http": "box.example:8000", "grpc": "box.example:8001"}


@pytest.mark.parametrize("url", ["box", "http://box:8000", "box:http", ":8000", "box:8000/v2"])
def test_a_url_that_is_no_address_is_named(url):
    with pytest.raises(RiceError, match=r"serve\.url"):
        endpoints(url)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)
def test_every_promise_on_a_real_server_and_again_by_its_url(tmp_path, monkeypatch):
    run = open_run(tmp_path / "root", monkeypatch, environment=True, serve={"ready_timeout_s": 180})
    smoke = SmokeTest.begin(run)
    tables = {check: getattr(smoke, check)() for check in CHECKS[:-1]}
    assert len(tables["parity"]) == 6
    assert set(tables["refusals"]["status"]) == {"400", "404", "INVALID_ARGUMENT", "NOT_FOUND"}
    files = promises.file_answers(smoke)
    assert set(files["status"]) == {200, 400}
    switched = promises.switch_under_load(smoke)
    assert set(switched["version"]) == {"1", "2"}
    assert switched["lost"].sum() == 0

    url = smoke.server.http
    other = SmokeTest.begin(Run.open("tiny", serve={"url": url}))
    for check in CHECKS:
        getattr(other, check)()
    assert other.metrics["serve/stop_s"].value is None
    assert other.metrics["serve/parity_max_abs_bmax"].value < 1e-3
    assert smoke.server.is_ready()  # a server that someone else started is left alone

    # a server that answers with another model's numbers breaks its promise
    write_onnx(run.paths.onnx / "other.onnx", ("Arborio", "Basmati", "Ipsala", "Jasmine", "Other"))
    wrong = SmokeTest(run, module.open_predictor(run.paths.onnx / "other.onnx"))
    wrong._clients = smoke._clients
    with pytest.raises(BrokenPromiseError, match="labels"):
        wrong.metadata()
    monkeypatch.setattr(smoke.reference, "_forward", lambda pixels: other.reference._forward(pixels) + 1)
    with pytest.raises(BrokenPromiseError, match="logits differ by 1"):
        smoke.parity()

    smoke.end()
    assert set(smoke.metrics) == METRICS | {"serve/file_scores_max_abs", "serve/lost_in_switch"}
    assert all(metric.value is not None for metric in smoke.metrics.values())
    assert smoke.server.leftovers() == []
