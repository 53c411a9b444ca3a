"""The load on a server: what is counted, with a stand-in whose numbers are known, and with the real one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import own_server
import pytest
import server_load
import server_parts
from support.models import write_grains
from support.triton import HAS_SERVER, NO_SERVER, write_onnx

from rice_lib.common.errors import RiceError
from rice_lib.serving.environment import MissingEnvironmentError

real = pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)


class StandIn(BaseHTTPRequestHandler):
    """Statistics of a server whose classifier runs four images at a time."""

    requests = 0

    def do_GET(self):
        data = json.dumps({"model_stats": [self.sums("rice"), self.sums("rice_v1")]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def sums(self, name):
        def spent(ms):
            return {"count": self.requests, "ns": ms * 1_000_000 * self.requests}

        ensemble = name == "rice"  # its times are its steps' once more
        times = {"queue": spent(2), "compute_input": spent(1), "compute_infer": spent(3), "compute_output": spent(1)}
        counts = {"inference_count": 4 * self.requests, "execution_count": self.requests * (4 if ensemble else 1)}
        return {"name": name, **counts, "inference_stats": {"success": spent(7), **times}}

    def log_message(self, *words):
        pass


@pytest.fixture
def stand_in():
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_queue_compute_and_executed_batch_are_the_growth_of_the_servers_sums(stand_in, monkeypatch):
    monkeypatch.setattr(StandIn, "requests", 3)
    before = own_server.statistics(stand_in)
    monkeypatch.setattr(StandIn, "requests", 10)
    found = own_server.split("rice", before, own_server.statistics(stand_in))
    assert found == {"queue_ms": 2.0, "compute_ms": 5.0, "executed_batch": {"rice_v1": 4.0}}  # not the ensemble's own


def test_a_server_that_is_not_there_is_one_line():
    with pytest.raises(RiceError, match=r"127.0.0.1:1 gives no statistics"):
        own_server.statistics("127.0.0.1:1")


def test_what_is_compared_is_measured_first():
    assert server_load.Grid([1, 16, 64], [1, 8], 1, 1).order()[:3] == [(16, 1), (16, 8), (1, 1)]
    assert server_load.Grid([1, 4], [1], 1, 1).compared == 4


def test_a_process_that_is_gone_uses_nothing():
    assert own_server.cpu_seconds(None) == {}
    assert own_server.memory_mib(2**22) == 0  # beyond the largest number that a process may have


def test_without_a_serving_environment_the_command_says_what_makes_one(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("RICE_SERVE_ENV", raising=False)
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    write_grains(tmp_path / "images", 1)
    model = write_onnx(tmp_path / "model.onnx")
    with pytest.raises(MissingEnvironmentError, match="make serve-env"):
        server_load.main(["--images", str(tmp_path / "images"), "--model", str(model)])


def measured(benchmark, folder, images, *options):
    """Run a benchmark of a real server, once and for a second, on a model with random weights: what it writes."""
    write_grains(folder / "images", images)
    model, kept = write_onnx(folder / "model.onnx"), folder / "found.json"
    given = ["--model", model, "--images", folder / "images", "--output", kept, "--seconds", 1, "--runs", 1, *options]
    assert benchmark.main(list(map(str, given))) == 0
    return json.loads(kept.read_text())


@real
@pytest.mark.slow
def test_the_real_server_is_measured_beside_what_it_is_compared_with(tmp_path, capsys):
    found = measured(server_load, tmp_path, 8, "--concurrency", "2", "16", "--batch", "1", "4")
    assert len(found["points"]) == 2 * 2 * 2
    for point in found["points"]:
        assert point["failed"] == 0
        assert point["cpu_ms"]["server"] > 0
        assert any(name.endswith("_decode") for name in point["cpu_ms"])
    ensemble = [point for point in found["points"] if point["model"] == "rice_bytes"]
    assert all(any(name.endswith("_decode") for name in point["executed_batch"]) for point in ensemble)
    for name in ("tensor_to_direct", "bytes_to_infer"):
        assert set(found[name]) == {"1", "4"}
        assert np.all(np.diff(found[name]["4"]) >= 0)
    assert found["memory_mib"]["peak"] >= found["memory_mib"]["after"]
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert f"{found['bytes_to_infer']['1'][1]:.2f}" in shown


@real
@pytest.mark.slow
def test_the_parts_of_a_request_are_of_every_process_and_add_up(tmp_path, capsys):
    found = measured(server_parts, tmp_path, 4)
    pixels, files = (runs[0]["cpu_ms"] for runs in found["runs"].values())
    assert pixels[server_parts.FRONT] > 0 < pixels[server_parts.CORE]
    assert len(pixels) == 3 + 2 * 1
    assert len(files) == 3 + 2 * 3
    assert "100%" in capsys.readouterr().out
