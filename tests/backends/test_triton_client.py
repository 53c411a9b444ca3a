import json
import socket
import threading
import time
from concurrent.futures import CancelledError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from rice_lib.backends import triton
from rice_lib.backends.triton import (
    LONGEST_DELAY_S,
    Connection,
    ServerError,
    TritonPredictor,
    VersionGoneError,
    _check_config,
    channel_options,
    parse_url,
)
from rice_lib.common.errors import RiceError
from rice_lib.predict.served import FileClient

CONFIG = {
    "max_batch_size": 8,
    "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["224", "224", "3"]}],
    "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["5"]}],
}


@pytest.fixture
def silent_port():
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_server_is_one_clear_line(protocol):
    with pytest.raises(RiceError, match=rf"{protocol}://127\.0\.0\.1:1/rice: no server answers there"):
        TritonPredictor("127.0.0.1:1", "rice", protocol)


@pytest.mark.parametrize("scheme", ["triton", "triton+grpc"])
def test_a_server_that_says_nothing_is_given_up(silent_port, scheme):
    with pytest.raises(RiceError, match=r"no answer within 0.5 s|no server answers"):
        FileClient(f"{scheme}://127.0.0.1:{silent_port}/rice", timeout_s=0.5)


def test_something_else_than_http_is_a_failed_connection(silent_port):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RiceError, match="the connection failed"):
            TritonPredictor(f"127.0.0.1:{listener.getsockname()[1]}", "rice")
        thread.join()


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("nosuch.invalid:8000", "nosuch.invalid"),
        ("http://127.0.0.1:1", "without a scheme"),
        ("127.0.0.1:http", "nonnumeric port"),
    ],
)
def test_a_wrong_address_is_an_error_of_ours(url, match):
    with pytest.raises(RiceError, match=match):
        TritonPredictor(url, "rice")


def test_a_model_of_this_project_is_recognised():
    assert _check_config(CONFIG, "here") == "logits"


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch_size": 0},
        {"input": []},
        {"input": [{**CONFIG["input"][0], "data_type": "TYPE_FP32"}]},
        {"input": [{**CONFIG["input"][0], "dims": [3, 224, 224]}]},
        {"output": CONFIG["output"] * 2},
    ],
)
def test_another_model_is_an_error(change):
    with pytest.raises(RiceError, match="here: not a model of this project"):
        _check_config({**CONFIG, **change}, "here")


def test_a_model_that_takes_files_is_an_error_that_names_the_other_one():
    files = {"input": [{"name": "file", "data_type": "TYPE_STRING", "dims": [1]}]}
    with pytest.raises(RiceError, match="here: takes files, and this command sends pixels; name the model without"):
        _check_config({**CONFIG, **files}, "here")


def test_the_batch_is_checked_before_anything_is_sent():
    predictor = TritonPredictor.__new__(TritonPredictor)
    with pytest.raises(ValueError, match="expected uint8"):
        predictor.logits(np.zeros((1, 3, 224, 224), np.uint8))


class Script:
    """Does what a list says, one entry a call: raises what is an exception, returns the rest."""

    def __init__(self, *entries):
        self.entries, self.calls = list(entries), 0

    def __call__(self, *_):
        self.calls += 1
        entry = self.entries.pop(0) if len(self.entries) > 1 else self.entries[0]
        if isinstance(entry, Exception):
            raise entry
        return entry


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds
        return False

    def set(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(triton, "time", clock)
    return clock


@pytest.fixture
def connect(clock):
    """Connections to a scripted model that has answered once."""
    opened = []

    def connect(infer, config=CONFIG, patience_s=60, protocol="http"):
        connection = Connection(protocol, "here:1", "rice", 60, patience_s)
        opened.append(connection)
        connection._client.close()
        connection._client = SimpleNamespace(config=lambda: config, infer=infer, close=lambda: None)
        connection._stopped = clock
        assert connection.config() is config
        return connection

    yield connect
    for connection in opened:
        connection.close()


def ask(connection, version="1"):
    return connection.infer(version, "images", np.zeros((1, 1), np.uint8), ["logits"]).result(10)


REFUSED = ConnectionRefusedError(111, "refused")


def test_a_lost_request_is_sent_again_ever_more_slowly(connect, clock, capsys):
    assert ask(connect(Script(*[REFUSED] * 12, "a response"))) == "a response"
    assert len(clock.pauses) == 12
    for attempt, pause in enumerate(clock.pauses):
        longest = min(0.1 * 2**attempt, LONGEST_DELAY_S)
        assert longest / 2 <= pause <= longest
    assert capsys.readouterr().err.splitlines() == [
        "http://here:1/rice: no server answers there; waiting up to 60 s for it",
        "http://here:1/rice: answers again",
    ]


def test_a_short_absence_is_not_reported(connect, capsys):
    assert ask(connect(Script(REFUSED, REFUSED, "a response"))) == "a response"
    assert capsys.readouterr().err == ""


def test_until_the_server_has_answered_a_fault_is_raised_at_once(clock):
    connection = Connection("http", "here:1", "rice", 60, 60)
    connection._client = SimpleNamespace(config=Script(REFUSED), close=lambda: None)
    with pytest.raises(ServerError, match=r"^http://here:1/rice: no server answers there$"):
        connection.config()
    assert clock.pauses == []
    connection.close()


def test_patience_ends_and_starts_again_with_the_next_request(connect, clock):
    connection = connect(Script(REFUSED), patience_s=5)
    for _ in range(2):
        began = clock.now
        with pytest.raises(ServerError, match=r"no server answers there \(tried for 5 s\)$") as caught:
            ask(connection)
        assert caught.value.status == 1
        assert clock.now - began == pytest.approx(5)


def test_closing_ends_the_wait(connect):
    connection = connect(Script(REFUSED))
    connection._stopped = threading.Event()
    request = connection.infer("1", "images", np.zeros((1, 1), np.uint8))
    connection.close()
    with pytest.raises((ServerError, CancelledError)):
        request.result(10)


def test_closing_ends_a_request_that_waits_for_its_response(silent_port):
    connection = Connection("http", f"127.0.0.1:{silent_port}", "rice", 60, 60)
    request = connection.infer("1", "images", np.zeros((1, 1), np.uint8))
    while not (connection._client._connections and connection._client._connections[0].sock):
        time.sleep(0.01)
    connection.close()
    with pytest.raises((ServerError, AttributeError)):
        request.result(10)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    "lost",
    [
        ConnectionRefusedError(111, "refused"),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
        InferenceServerException("Exceeds maximum queue size", "503"),
        InferenceServerException("Server is stopping", "StatusCode.UNAVAILABLE"),
        InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED"),
        InferenceServerException("in ensemble 'rice_bytes', Stub process 'rice_v1_decode_0_1' is not healthy.", "500"),
        InferenceServerException("Request for unknown model: 'rice' is not found", "404"),
        InferenceServerException("'rice' has no available versions", "400"),
    ],
)
def test_what_may_have_a_response_later_is_sent_again(connect, protocol, lost):
    config = {**CONFIG, "parameters": {"version": {"string_value": "1"}}}
    infer = Script(lost, "a response")
    assert ask(connect(infer, config, protocol=protocol)) == "a response"
    assert infer.calls == 2


@pytest.mark.parametrize("status", ["400", "StatusCode.INVALID_ARGUMENT", "500", None])
def test_what_the_server_rejects_is_sent_once(connect, status):
    infer = Script(InferenceServerException("unexpected shape for input 'images'", status))
    with pytest.raises(ServerError, match=r"^http://here:1/rice: unexpected shape for input 'images'") as caught:
        ask(connect(infer))
    assert (infer.calls, caught.value.temporary) == (1, False)
    assert caught.value.code == (status or "").removeprefix("StatusCode.")


def test_a_version_that_is_gone_comes_with_the_configuration_of_the_one_that_is_there(connect):
    config = {"parameters": {"version": {"string_value": "2"}}}
    gone = InferenceServerException("Request for unknown model: 'rice' version 1 is not found", "404")
    with pytest.raises(VersionGoneError) as caught:
        ask(connect(Script(gone), config))
    assert caught.value.config is config


def test_requests_are_in_flight_together(connect):
    together = threading.Barrier(4, timeout=10)
    connection = connect(lambda *_: together.wait())
    sent = [connection.infer("", "images", np.zeros((1, 1), np.uint8)) for _ in range(4)]
    assert sorted(response.result(10) for response in sent) == [0, 1, 2, 3]


class Model(BaseHTTPRequestHandler):
    """Triton's HTTP protocol: a model that takes four bytes and answers them, and an error for what is longer."""

    protocol_version = "HTTP/1.1"
    paths: ClassVar[list[str]] = []

    def do_POST(self):
        type(self).paths.append(self.path)
        size = int(self.headers["Inference-Header-Content-Length"])
        tensor = self.rfile.read(int(self.headers["Content-Length"]))[size:]
        if len(tensor) > 4:
            return self.answer(400, b'{"error":"unexpected shape"}', {})
        binary = {"parameters": {"binary_data_size": 4}}
        header = json.dumps({"outputs": [{"name": "logits", "datatype": "UINT8", "shape": [4], **binary}]}).encode()
        return self.answer(200, header + tensor, {"Inference-Header-Content-Length": str(len(header))})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_http_requests_name_the_version_and_keep_their_connection():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = Connection("http", f"127.0.0.1:{server.server_port}", "rice", 60, 60)
    try:
        for version in ("7", ""):
            response = connection.infer(version, "images", np.arange(4, dtype=np.uint8), ["logits"]).result(10)
            assert response.as_numpy("logits").tolist() == [0, 1, 2, 3]
        with pytest.raises(ServerError, match=r"unexpected shape \[400\]$"):
            connection.infer("7", "images", np.arange(5, dtype=np.uint8), ["logits"]).result(10)
        assert Model.paths[:2] == ["/v2/models/rice/versions/7/infer", "/v2/models/rice/infer"]
        assert all(kept.sock for kept in connection._client._connections)
    finally:
        connection.close()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("address", "direct"), [("127.0.0.1:1", True), ("localhost:1", True), ("box:1", False)])
def test_grpc_to_this_machine_goes_through_no_proxy(address, direct):
    assert (("grpc.enable_http_proxy", 0) in channel_options(address)) == direct


def test_a_url_names_protocol_address_and_model():
    assert parse_url("triton://here:8000/rice") == ("http", "here:8000", "rice")
    assert parse_url("triton+grpc://here:8001/rice") == ("grpc", "here:8001", "rice")
    for url, match in (("ftp://here/rice", "unknown scheme"), ("triton://here:8000", "write it as triton://")):
        with pytest.raises(RiceError, match=match):
            parse_url(url)
