"""Clients of a real server that is killed, or switches versions, while they send requests."""

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException

import numpy as np
import onnx
import psutil
import pytest
from onnx import numpy_helper
from PIL import Image
from support import corpus
from support.triton import HAS_SERVER, NO_SERVER, ROOT, wait_until_ready, write_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.backends.triton import TritonPredictor
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import KEY, Decision
from rice_lib.infer import main
from rice_lib.predict.inputs import Unreadable
from rice_lib.predict.pipeline import predict_files
from rice_lib.predict.served import FileClient
from rice_lib.serving import server as life
from rice_lib.serving.control import Control
from rice_lib.serving.environment import ServingEnvironment
from rice_lib.serving.repository import Repository, drawn_grain, write_repository

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)]

ODD = ("cmyk.jpg", "deep.png", "exif.jpg", "palette.png", "animated.gif", "plain.avif")
BAD = ("truncated.jpg", "empty.jpg", "paper.pdf")


class Served:
    """A model and the server that all tests share, on one port."""

    def __init__(self, folder):
        self.folder, self.model = folder, write_onnx(folder / "model.onnx")
        write_repository(self.model, folder / "repository", "rice", 8)
        self.server = None

    def start(self):
        environment, state = ServingEnvironment.find(ROOT), self.folder / "server"
        self.server = life.start(environment, self.folder / "repository", "rice", state, ready_timeout_s=180)

    def kill(self):
        """Kill the server, and hold what would start it again at once."""
        supervisor = psutil.Process(self.server.pid)
        (server,) = supervisor.children()
        supervisor.suspend()
        server.kill()

    def revive(self):
        """Let it be started again."""
        psutil.Process(self.server.pid).resume()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    life.stop(served.folder / "server", timeout_s=5)


@pytest.fixture
def mortal(shared):
    """The shared server, which may be killed."""
    if shared.server is None:
        shared.start()
    yield shared
    shared.revive()
    wait_until_ready(shared.server, 180)


@pytest.fixture
def served(mortal):
    return mortal.model, mortal.server


def address(server, protocol):
    return server.http if protocol == "http" else server.grpc


def url(server, protocol, model="rice_bytes"):
    return f"{'triton' if protocol == 'http' else 'triton+grpc'}://{address(server, protocol)}/{model}"


def random_images(count):
    return np.random.default_rng(3).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def write_odd(folder):
    folder.mkdir()
    files = {name: corpus.good_files()[name][0] for name in ODD}
    files |= {name: corpus.foreign_files()[name][0] for name in BAD}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in (*BAD[:1], *ODD, *BAD[1:])] + [str(folder / "gone.jpg")]


def assert_same(records, expected):
    records, expected = ([record.as_dict(top_k=5) for record in each] for each in (records, expected))
    for one, other in zip(records, expected, strict=True):
        for key in ("confidence", "scores"):
            assert one.pop(key, None) == pytest.approx(other.pop(key, None), abs=1e-5)
    assert records == expected


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_logits_are_those_of_the_file_at_any_number(served, protocol):
    model, server = served
    pixels = random_images(75)  # ten requests of at most 8
    expected = open_predictor(model).logits(pixels)
    with TritonPredictor(address(server, protocol), "rice", protocol) as client:
        assert (client.max_batch, client.version) == (8, "1")
        for count in (1, 8, 16, 75):
            np.testing.assert_allclose(client.logits(pixels[:count]), expected[:count], atol=1e-3)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_files_are_predicted_as_by_the_model_here(served, tmp_path, protocol):
    model, server = served
    sources = [*write_odd(tmp_path / "odd"), Unreadable("folder", "the folder holds no images")]
    with open_predictor(model) as predictor:
        expected = list(predict_files(predictor, sources))
    with FileClient(url(server, protocol)) as client:
        assert_same(client.predict_files(sources), expected)
        bad = [record for record in expected if record.error]
        assert len(bad) == 5
        assert_same(client.predict_files([sources[0], *sources[1 + len(ODD) :]]), bad)  # fails as a whole
        assert list(client.predict_files([])) == []


def test_a_slow_list_is_predicted_name_by_name(served, tmp_path):
    path = write_odd(tmp_path / "odd")[1]
    with FileClient(url(served[1], "http")) as client:
        answered = threading.Event()

        def names():
            yield path
            assert answered.wait(30)
            yield path

        for record in client.predict_files(names()):
            assert record.label
            answered.set()


def test_large_files_go_in_requests_of_their_own(served, tmp_path, monkeypatch):
    sources = write_odd(tmp_path / "odd")
    with FileClient(url(served[1], "http")) as client:
        together = list(client.predict_files(sources))
        monkeypatch.setattr("rice_lib.predict.served.MAX_REQUEST_BYTES", 1)
        assert_same(client.predict_files(sources), together)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_command_predicts_by_the_ensemble(served, tmp_path, protocol, capsys):
    files, written = write_odd(tmp_path / "odd"), {}
    for name, model in (("here", str(served[0])), ("server", url(served[1], protocol))):
        output = tmp_path / f"{name}.jsonl"
        assert main([*files, "--model", model, "--top-k", "1", "--output", str(output)]) == 1
        written[name] = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(written["here"]) == len(files)
    assert "waiting" not in capsys.readouterr().err
    for one, other in zip(written["server"], written["here"], strict=True):
        assert one.pop("scores", {}) == pytest.approx(other.pop("scores", {}), abs=1e-5)
        assert one.pop("confidence", 0) == pytest.approx(other.pop("confidence", 0), abs=1e-5)
        assert one == other


def test_a_model_that_takes_pixels_takes_no_files_and_the_other_way_round(served):
    _, server = served
    with pytest.raises(RiceError, match="does not take files; name the ensemble that does, as rice_bytes"):
        FileClient(url(server, "http", "rice"))
    with pytest.raises(RiceError, match=r"/rice_bytes: takes files, .*name the model without _bytes"):
        TritonPredictor(server.http, "rice_bytes")
    with pytest.raises(RiceError, match="name the model without _bytes"):
        main(["x.jpg", "--engine", "ray", "--model", url(server, "http")])


def test_clients_leave_no_open_files(served):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    for protocol in ("http", "grpc"):
        before = []
        for _ in range(6):
            with TritonPredictor(address(served[1], protocol), "rice", protocol) as client:
                client.logits(random_images(32))
            before.append(open_files())
        assert before[-1] <= before[1] + 8  # what gRPC closes, it closes some time later


def write_small(folder, number):
    folder.mkdir()
    pixels = np.random.default_rng(5).integers(0, 256, (number, 8, 8, 3), dtype=np.uint8)
    for place, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{place:04}.png")


def infer(folder, model, output):
    command = [sys.executable, "-m", "rice_lib.infer", str(folder), "--model", model, "--no-reject", "--output", output]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("model", "protocol", "number"),
    [("rice", "http", 2000), ("rice", "grpc", 500), ("rice_bytes", "http", 500), ("rice_bytes", "grpc", 500)],
)
def test_a_server_killed_in_the_middle_of_a_run(mortal, tmp_path, model, protocol, number):
    output, partial = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.partial"
    write_small(tmp_path / "small", number)
    process = infer(tmp_path / "small", url(mortal.server, protocol, model), output)
    while not partial.exists() or partial.read_bytes().count(b"\n") < number // 10:
        assert process.poll() is None
        time.sleep(0.005)
    mortal.kill()
    time.sleep(1.5)
    assert process.poll() is None, "the server was killed too late"
    assert number // 10 <= partial.read_bytes().count(b"\n") < number
    mortal.revive()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert (said.count("waiting up to 60 s for it\n"), said.count("answers again\n")) == (1, 1)
    with open_predictor(mortal.model) as predictor:
        expected = list(predict_files(predictor, [str(tmp_path / "small" / f"{n:04}.png") for n in range(number)]))
    for one, other in zip(map(json.loads, output.read_text().splitlines()), expected, strict=True):
        assert (one["path"], one["label"]) == (other.path, other.label)
        assert one["scores"] == pytest.approx(other.prediction.scores, abs=1e-5)


@pytest.mark.parametrize("step", ["rice_v1_decode", "rice_v1_postprocess"])
def test_a_worker_killed_in_the_middle_of_a_run(mortal, tmp_path, step):
    output, partial = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.partial"
    write_small(tmp_path / "small", 500)
    process = infer(tmp_path / "small", url(mortal.server, "http"), output)
    while not partial.exists() or partial.read_bytes().count(b"\n") < 50:
        assert process.poll() is None
        time.sleep(0.005)
    (server,) = psutil.Process(mortal.server.pid).children()
    next(worker for worker in server.children() if f"/{step}/" in " ".join(worker.cmdline())).kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert (len(records), [record for record in records if "error" in record]) == (500, [])
    psutil.wait_procs([server], timeout=60)  # another takes its place


def test_every_request_is_answered_though_many_come_at_once(mortal, tmp_path):
    data, answered = (tmp_path / "a.png"), Counter()
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(data)
    head = "POST /v2/models/rice_bytes/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 0\r\n"
    request = f"{head}Content-Length: {data.stat().st_size}\r\n\r\n".encode() + data.read_bytes()
    connections = [socket.create_connection((mortal.server.host, mortal.server.port)) for _ in range(800)]
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        connection.settimeout(120)
        answered[connection.recv(12)] += 1
        connection.close()
    assert answered == {b"HTTP/1.1 200": 800}


ENDED_IT = {
    # as `curl --data-binary` sends it: a form, which the server parsed on the stack
    "a form of 5 MB": ({"Content-Type": "application/x-www-form-urlencoded"}, [b"a" * 5_000_000]),
    "600,000 chunks": ({"Transfer-Encoding": "chunked"}, [b"1\r\na\r\n" * 600_000, b"0\r\n\r\n"]),
    "JSON nested 200,000 deep": ({"Inference-Header-Content-Length": None}, [b"[" * 200_000 + b"]" * 200_000]),
}


@pytest.mark.parametrize("kind", ENDED_IT)
def test_what_ended_the_server_is_rejected(mortal, kind):
    headers, parts = ENDED_IT[kind]
    before = psutil.Process(mortal.server.pid).children()
    status = send_parts(mortal.server, {"Inference-Header-Content-Length": "0", **headers}, parts)
    assert status in (400, 500)  # the latter is its own answer to JSON that it cannot read
    assert psutil.Process(mortal.server.pid).children() == before
    assert mortal.server.is_ready()


def send_parts(server, headers, parts):
    """Send a body in parts; returns the status."""
    if "Transfer-Encoding" not in headers:
        headers = {**headers, "Content-Length": str(sum(map(len, parts)))}
    with closing(HTTPConnection(server.http, timeout=120)) as connection:
        connection.putrequest("POST", "/v2/models/rice_bytes/infer")
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
        for part in parts:
            connection.send(part)
        return connection.getresponse().status


def test_a_request_that_ends_the_server_is_survived(mortal):
    data = drawn_grain()
    tensor = {"name": "file", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data) + 4}}
    asked = {"inputs": [tensor], "outputs": [{"name": "variety", "parameters": {"classification": 2}}]}
    header = json.dumps(asked).encode()
    (before,) = psutil.Process(mortal.server.pid).children()
    parts = [header, len(data).to_bytes(4, "little"), data]
    with pytest.raises((HTTPException, OSError)):
        send_parts(mortal.server, {"Inference-Header-Content-Length": str(len(header))}, parts)
    psutil.wait_procs([before], timeout=60)
    wait_until_ready(mortal.server, 180)
    assert send_parts(mortal.server, {"Inference-Header-Content-Length": "0"}, [data]) == 200


def write_other(folder):
    """A model of the opposite logits, with a temperature of its own."""
    model = onnx.load(folder / "model.onnx")
    weights = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(-weights, "weights"))
    labels = next(entry.value for entry in model.metadata_props if entry.key == "labels")
    onnx.helper.set_model_props(model, {"labels": labels, KEY: Decision(temperature=1e6).to_json()})
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


def switch(repository, server, version):
    """Switch the running server to a version."""
    with Control(server) as control:
        repository.switch(version, control)


def test_versions_switched_under_clients_lose_nothing(mortal, tmp_path):
    server, repository = mortal.server, Repository(mortal.folder / "repository")
    pixels = random_images(20)
    expected = open_predictor(mortal.model).logits(pixels)
    assert repository.add(write_other(mortal.folder), 8).version == 2
    sign, temperature = {"1": 1, "2": -1}, {"1": 1, "2": 1e6}
    files = write_odd(tmp_path / "odd")[1:4]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(client)
            for protocol in ("http", "grpc")
            for client in (
                TritonPredictor(address(server, protocol), "rice", protocol),
                FileClient(url(server, protocol)),
            )
        ]
        for goal in ("2", "1"):
            switching = threading.Thread(target=switch, args=(repository, server, int(goal)))
            switching.start()
            until = time.monotonic() + 60
            while switching.is_alive() or [client.version for client in clients] != [goal] * 4:
                assert time.monotonic() < until
                for client in clients[::2]:
                    np.testing.assert_allclose(client.logits(pixels), sign[client.version] * expected, atol=1e-3)
                    assert client.decision.temperature == temperature[client.version]
                for client in clients[1::2]:
                    records = list(client.predict_files(files))
                    flat = [max(record.prediction.scores.values()) < 0.21 for record in records]  # by the temperature
                    assert flat == [client.version == "2"] * 3


def test_patience_ends_in_one_line(mortal, tmp_path):
    path = write_odd(tmp_path / "odd")[1]
    with FileClient(url(mortal.server, "http"), patience_s=2) as client:
        assert next(client.predict_files([path])).label
        mortal.kill()
        with pytest.raises(RiceError, match=r"no server answers there \(tried for 2 s\)") as caught:
            list(client.predict_files(itertools.repeat(path, 100)))
        assert caught.value.status == 1
