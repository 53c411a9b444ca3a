import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from rice_lib.backends.triton import TritonPredictor, _check_config
from rice_lib.backends.triton_connection import Connection, parse_url
from rice_lib.backends.triton_retry import LONGEST_DELAY_S, Kind, Retry, ServerError, VersionGoneError
from rice_lib.common.errors import RiceError

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
def test_no_server_is_one_clear_line_in_bounded_time(protocol):
    began = time.monotonic()
    with pytest.raises(RiceError, match=rf"{protocol}://127\.0\.0\.1:1/rice: no server answers there"):
        TritonPredictor("127.0.0.1:1", "rice", protocol)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_says_nothing_is_given_up(silent_port, protocol):
    with pytest.raises(RiceError, match=r"no answer within 1 s|no server answers"):
        TritonPredictor(f"127.0.0.1:{silent_port}", "rice", protocol, timeout_s=1)


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
    ("url", "match"), [("nosuch.invalid:8000", "nosuch.invalid"), ("http://127.0.0.1:1", "without a scheme")]
)
def test_a_wrong_address_is_an_error_of_ours(url, match):
    with pytest.raises(RiceError, match=match):
        TritonPredictor(url, "rice")


def test_an_unknown_protocol_is_named():
    with pytest.raises(RiceError, match="'smoke'"):
        TritonPredictor("127.0.0.1:1", "rice", "smoke")


def test_a_model_of_this_project_is_recognised():
    assert _check_config(CONFIG, "here") == ("images", "logits")


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
def test_another_model_is_refused(change):
    with pytest.raises(RiceError, match="here: not a model of this project"):
        _check_config({**CONFIG, **change}, "here")


def test_the_batch_is_checked_before_anything_is_sent():
    predictor = TritonPredictor.__new__(TritonPredictor)
    with pytest.raises(ValueError, match="expected uint8"):
        predictor.logits(np.zeros((1, 3, 224, 224), np.uint8))


def fault(kind=Kind.AWAY):
    return ServerError("here", "no server answers there", kind)


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds
        return False


class Script:
    """Does what a list says, one entry a call: raises what is an exception, returns the rest."""

    def __init__(self, *entries):
        self.entries, self.calls = list(entries), 0

    def __call__(self, *_, **__):
        self.calls += 1
        entry = self.entries.pop(0) if len(self.entries) > 1 else self.entries[0]
        if isinstance(entry, Exception):
            raise entry
        return entry


def retrying(patience_s=60.0):
    clock = Clock()
    retry = Retry("here", patience_s, lambda: clock.now, clock.pause)
    assert retry(lambda: "first") == "first"
    return retry, clock


@pytest.mark.parametrize("kind", [Kind.AWAY, Kind.MISSING])
def test_what_may_have_an_answer_later_is_asked_again_ever_more_slowly(kind, capsys):
    retry, clock = retrying()
    assert retry(Script(*[fault(kind)] * 12, "told")) == "told"
    assert len(clock.pauses) == 12
    for tries, pause in enumerate(clock.pauses):
        longest = min(0.1 * 2**tries, LONGEST_DELAY_S)
        assert longest / 2 <= pause <= longest
    assert capsys.readouterr().err.splitlines() == [
        "here: no server answers there; waiting up to 60 s for it",
        "here: answers again",
    ]


def test_a_short_absence_is_not_spoken_of(capsys):
    retry, _ = retrying()
    assert retry(Script(fault(), fault(), "told")) == "told"
    assert capsys.readouterr().err == ""


def test_a_refusal_and_a_first_failure_are_raised_at_once():
    retry, clock = retrying()
    for refused in (fault(Kind.REFUSED), VersionGoneError({})):
        with pytest.raises(type(refused)):
            retry(Script(refused))
    with pytest.raises(ServerError, match=r"^here: no server answers there$"):
        Retry("here", 60, lambda: clock.now, clock.pause)(Script(fault()))
    assert clock.pauses == []


def test_patience_ends_and_begins_anew_with_the_next_request():
    retry, clock = retrying(patience_s=5)
    for _ in range(2):
        began = clock.now
        with pytest.raises(ServerError, match=r"^here: no server answers there \(tried for 5 s\)$") as caught:
            retry(Script(fault()))
        assert caught.value.status == 1
        assert clock.now - began == pytest.approx(5)


def test_who_closes_need_not_wait():
    retry = Retry("here")
    retry(lambda: None)
    threading.Timer(0.2, retry.stop).start()
    began = time.monotonic()
    with pytest.raises(ServerError):
        retry(Script(fault()))
    assert time.monotonic() - began < 5


def connected(infer, config=None, **settings):
    """A connection to a stand-in for the library, that has answered once."""
    made = []

    def client(*_, **__):
        made.append(
            SimpleNamespace(
                get_model_config=config or (lambda _: CONFIG),
                get_server_metadata=lambda: {"name": "triton", "version": "2"},
                infer=infer,
                close=lambda: None,
            )
        )
        return made[-1]

    library = SimpleNamespace(
        InferenceServerClient=client,
        InferInput=lambda *_: SimpleNamespace(set_data_from_numpy=lambda _: None),
        InferRequestedOutput=lambda *_, **__: None,
    )
    connection = Connection(library, "http", "here:1", "rice", **settings)
    assert connection.server() == "triton 2"
    return connection, made


def ask(connection, version="1"):
    return connection.infer(version, "images", np.zeros((1, 1), np.uint8), {"logits": 0}).result(10)


@pytest.mark.parametrize(
    ("lost", "new_client"),
    [
        (ConnectionRefusedError(111, "refused"), True),
        (ConnectionResetError(104, "reset"), True),
        (TimeoutError(), True),
        (InferenceServerException("Exceeds maximum queue size", "503"), True),
        (InferenceServerException("Server is stopping", "StatusCode.UNAVAILABLE"), True),
        (InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED"), True),
        (InferenceServerException("Stub process is not healthy.", "500"), True),
        (InferenceServerException("Request for unknown model: 'rice' is not found", "404"), False),
        (InferenceServerException("'rice' has no available versions", "400"), False),
    ],
)
def test_a_lost_request_is_sent_again(lost, new_client):
    config = {**CONFIG, "parameters": {"version": {"string_value": "1"}}}
    infer = Script(lost, "told")
    connection, made = connected(infer, lambda _: config)
    assert ask(connection) == "told"
    assert infer.calls == 2
    assert len(made) == (3 if new_client else 2)  # that of the thread that asked for the server's name is one
    connection.close()


@pytest.mark.parametrize("status", ["400", "StatusCode.INVALID_ARGUMENT", "500", None])
def test_what_is_refused_is_asked_once(status):
    infer = Script(InferenceServerException("unexpected shape for input 'images'", status))
    connection, _ = connected(infer)
    with pytest.raises(RiceError, match=r"^http://here:1/rice: unexpected shape for input 'images'") as caught:
        ask(connection)
    assert (infer.calls, caught.value.kind) == (1, Kind.REFUSED)
    connection.close()


def test_a_version_that_is_gone_is_told_with_the_configuration_of_the_one_that_is_there():
    config = {"parameters": {"version": {"string_value": "2"}}}
    gone = InferenceServerException("Request for unknown model: 'rice' version 1 is not found", "404")
    connection, _ = connected(Script(gone), lambda _: config)
    with pytest.raises(VersionGoneError) as caught:
        ask(connection)
    assert caught.value.config is config
    connection.close()


def test_requests_are_under_way_together():
    together = threading.Barrier(4, timeout=10)
    connection, made = connected(lambda *_, **__: together.wait())
    asked = [connection.infer("", "images", np.zeros((1, 1), np.uint8), {"logits": 0}) for _ in range(4)]
    assert sorted(answer.result(10) for answer in asked) == [0, 1, 2, 3]
    assert len(made) == 4
    connection.close()


def test_a_url_names_protocol_address_and_model():
    assert parse_url("triton://here:8000/rice") == ("http", "here:8000", "rice")
    assert parse_url("triton+grpc://here:8001/rice") == ("grpc", "here:8001", "rice")
    for url, match in (("ftp://here/rice", "unknown scheme"), ("triton://here:8000", "write it as triton://")):
        with pytest.raises(RiceError, match=match):
            parse_url(url)
