"""Clients under load, against a stand-in for the server."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rice_lib.common.errors import RiceError
from rice_lib.serving.load import HEADER_LENGTH, Body, send_requests


class Echo(BaseHTTPRequestHandler):
    """Answers with the request's path, header and body; status 503 to an empty one; to `b"break"` with nothing."""

    protocol_version = "HTTP/1.1"
    asked = threading.Event()

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.set()
        if data == b"break":
            self.close_connection = True
            return
        answer = b"|".join([self.path.encode(), str(self.headers[HEADER_LENGTH]).encode(), data])
        self.send_response(200 if data else 503)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@contextmanager
def echoing():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def send(requests, enough):
    """Send until `enough` says so of the counts and the answers; returns both."""
    answers, changed = [], threading.Event()

    def seen(*answer):
        answers.append(answer)
        changed.set()

    with echoing() as address, send_requests(address, requests, 2, seen) as counts:
        while not enough(counts, answers):
            changed.wait(0.01)
    return counts, answers


def test_requests_go_out_in_turn_with_their_headers_and_are_counted():
    bodies = [("rice", Body(b"one", {HEADER_LENGTH: "3"})), ("rice_bytes", Body(b"\r\n\r\n", {}))]
    counts, answers = send(bodies, lambda counts, answers: len(answers) > 5)
    assert set(answers) == {
        ("rice", b"/v2/models/rice/infer|3|one"),
        ("rice_bytes", b"/v2/models/rice_bytes/infer|None|\r\n\r\n"),
    }
    assert len(counts.seconds) == len(answers)
    assert not counts.failures


def test_what_the_server_rejects_is_counted_apart():
    counts, answers = send([("rice", Body(b"", {}))], lambda counts, answers: counts.failures)
    assert counts.failures[0].startswith("503 /v2/models/rice/infer")
    assert not answers


def test_a_connection_that_the_server_breaks_is_an_error():
    Echo.asked.clear()
    with (
        echoing() as address,
        pytest.raises(RiceError, match="closed by the server"),
        send_requests(address, [("rice", Body(b"break", {}))], 1),
    ):
        Echo.asked.wait()
