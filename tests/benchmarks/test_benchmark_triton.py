"""The benchmark of a server: what it counts, with a stand-in whose numbers are known, and with the real one."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from rice_lib.benchmark import __main__ as command
from rice_lib.benchmark import triton
from support.models import grains, write_grains
from support.triton import HAS_SERVER, NO_SERVER, write_onnx

from rice_lib.common.errors import RiceError
from rice_lib.serving import load, processes
from rice_lib.serving.environment import MissingEnvironmentError

real = pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)


class StandIn(BaseHTTPRequestHandler):
    """Answers as a server whose classifier runs four images at a time."""

    protocol_version = "HTTP/1.1"
    refuse_every = 0
    asked = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked += 1
        refused = self.refuse_every and self.asked % self.refuse_every == 0
        self._say(503 if refused else 200, b"too many wait" if refused else b"told")

    def do_GET(self):
        self._say(200, json.dumps({"model_stats": [self._sums("rice"), self._sums("rice_v1")]}).encode())

    def _sums(self, name):
        def spent(ms):
            return {"count": self.asked, "ns": ms * 1_000_000 * self.asked}

        own = name == "rice"  # the ensemble: its times are its steps' once more
        times = {"queue": spent(2), "compute_input": spent(1), "compute_infer": spent(3), "compute_output": spent(1)}
        counts = {"inference_count": 4 * self.asked, "execution_count": self.asked * (4 if own else 1)}
        return {"name": name, **counts, "inference_stats": {"success": spent(7), **times}}

    def _say(self, status, data):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(load, "WARM_UP_S", 0.1)
    monkeypatch.setattr(StandIn, "asked", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_grid_counts_images_and_takes_the_split_from_the_servers_statistics(stand_in):
    points = load.measure_grid(stand_in, "rice", [b"a", b"b", b"c"], concurrencies=[1, 3], batches=[2], seconds=0.3)
    assert [(point["concurrency"], point["batch"], point["series"]) for point in points] == [
        (1, 2, "rice, 2 a request"),
        (3, 2, "rice, 2 a request"),
    ]
    for point in points:
        assert point["images_per_s"] == pytest.approx(2 * point["requests"] / 0.3, rel=0.3)
        assert point["p50_ms"] <= point["p90_ms"] <= point["p99_ms"]
        assert point["executed_batch"] == {"rice_v1": 4.0}  # not the ensemble's own
        assert (point["queue_ms"], point["compute_ms"]) == (2.0, 5.0)
        assert (point["failed"], point["failure"], point["cpu_ms"]) == (0, None, {})


def test_refused_requests_count_as_failed_not_as_told(stand_in, monkeypatch):
    monkeypatch.setattr(StandIn, "refuse_every", 2)
    (point,) = load.measure_grid(stand_in, "rice", [b"a"], concurrencies=[1], batches=[1], seconds=0.3)
    assert abs(point["failed"] - point["requests"]) <= 1
    assert point["failure"] == "503 too many wait"
    monkeypatch.setattr(StandIn, "refuse_every", 1)
    with pytest.raises(RiceError, match=r"rice on 127.0.0.1:.* answered 503 too many wait"):
        load.measure_grid(stand_in, "rice", [b"a"], concurrencies=[1], batches=[1], seconds=0.1)


def test_nobody_there_is_told_in_one_line(stand_in, monkeypatch):
    monkeypatch.setattr(load, "WARM_UP_S", 0.1)
    with pytest.raises(RiceError, match=r"the connection to 127.0.0.1:1 failed"):
        load.measure_grid("127.0.0.1:1", "rice", [b"a"], concurrencies=[2], batches=[1], seconds=0.1)


def test_requests_go_over_all_rows_and_the_last_is_filled_up():
    made = load.bodies([b"first", b"second", b"third"], 2)
    assert [re.findall(rb"first|second|third", body.data) for body in made] == [
        [b"first", b"second"],
        [b"third", b"first"],
    ]
    pixels = grains(3)
    assert [body.data[body.header_length :] for body in load.bodies(pixels, 2)] == [
        pixels[:2].tobytes(),
        pixels[[2, 0]].tobytes(),
    ]


def test_what_is_compared_is_measured_first():
    assert triton.Grid([1, 16, 64], [1, 8], 1, 1).order()[:3] == [(16, 1), (16, 8), (1, 1)]
    assert triton.Grid([1, 4], [1], 1, 1).compared == 4


def test_a_process_that_is_gone_takes_nothing():
    assert processes.cpu_seconds(None) == {}
    assert processes.memory_mib(2**22) == 0  # beyond the largest number that a process may have


def test_without_a_serving_environment_the_command_says_what_makes_one(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("RICE_SERVE_ENV", raising=False)
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    write_grains(tmp_path / "images", 1)
    model = write_onnx(tmp_path / "model.onnx")
    with pytest.raises(MissingEnvironmentError, match="make serve-env"):
        command.main(["triton", "--images", str(tmp_path / "images"), "--model", str(model)])


@real
@pytest.mark.slow
def test_the_real_server_is_measured_beside_what_it_is_compared_with(tmp_path, capsys):
    write_grains(tmp_path / "images", 8)
    model, kept = write_onnx(tmp_path / "model.onnx"), tmp_path / "triton.json"
    options = ["--model", model, "--images", tmp_path / "images", "--output", kept, "--seconds", 1, "--runs", 1]
    assert command.main(["triton", *map(str, options), "--concurrency", "2", "16", "--batch", "1", "4"]) == 0
    found = json.loads(kept.read_text())
    assert len(found["points"]) == 2 * 2 * 2
    for point in found["points"]:
        assert point["failed"] == 0
        assert point["cpu_ms"]["server"] > 0
        assert any(name.endswith("_decode") for name in point["cpu_ms"])
    asked = [point for point in found["points"] if point["model"] == "rice_bytes"]
    assert all(any(name.endswith("_decode") for name in point["executed_batch"]) for point in asked)
    for name in ("tensor_to_direct", "bytes_to_infer"):
        assert set(found[name]) == {"1", "4"}
        assert np.all(np.diff(found[name]["4"]) >= 0)
    assert found["memory_mib"]["peak"] >= found["memory_mib"]["after"]
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert f"{found['bytes_to_infer']['1'][1]:.2f}" in shown
