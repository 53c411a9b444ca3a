import socket
import threading
import time

import numpy as np
import pytest

from rice_lib.deploy.triton.client import TritonPredictor, _check_config
from rice_lib.errors import RiceError

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
