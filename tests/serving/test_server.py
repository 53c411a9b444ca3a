"""The life of a server: with a stand-in for what real ones do too rarely, and with the real one."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from support.triton import HAS_SERVER, NO_SERVER, ROOT, make_checkout, stand_in, wait_until_ready, write_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.backends.triton import TritonPredictor
from rice_lib.common.errors import RiceError
from rice_lib.common.files import locked
from rice_lib.serving import server as life
from rice_lib.serving import supervise
from rice_lib.serving.environment import MissingEnvironmentError, ServingEnvironment
from rice_lib.serving.repository import write_repository
from rice_lib.serving.server import KEY_FILE, free_ports, require_free

real = pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    write_repository(write_onnx(tmp_path / "model.onnx"), folder, "rice", 8)
    return folder


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "server"
    yield folder
    life.stop(folder, timeout_s=5)


def kill(state):
    """Kill what supervises a server, and wait until the server has ended with it."""
    os.kill(life.running(state).pid, signal.SIGKILL)
    psutil.wait_procs(life.find(state), timeout=30)


def test_start_ready_stop_and_nothing_is_left(tmp_path, repository, state):
    server = life.start(stand_in(tmp_path / "env", "ready"), repository, "rice", state)
    assert server.is_ready()
    assert life.running(state) == server
    assert server.ready_s > 0
    assert {item.split()[0] for item in server.leftovers()} >= {"process", str(state / "state.json")}
    assert server.stop() > 0
    assert server.leftovers() == []
    assert life.running(state) is None
    assert server.stop() is None  # once more does no harm


def test_a_second_start_fails_and_the_first_server_stays(tmp_path, repository, state):
    environment = stand_in(tmp_path / "env", "ready")
    server = life.start(environment, repository, "rice", state)
    with pytest.raises(RiceError, match=f"already running at {server.http} .pid {server.pid}"):
        life.start(environment, repository, "rice", state)
    assert server.is_ready()


def test_a_server_that_dies_says_why_and_where_its_log_is(tmp_path, repository, state):
    with pytest.raises(RiceError, match=r"did not start: Internal: damaged model \(log: .*tritonserver\.log\)"):
        life.start(stand_in(tmp_path / "env", "dies"), repository, "rice", state)
    assert [path.name for path in state.iterdir()] == ["tritonserver.log"]


def test_a_server_that_is_never_ready_is_given_up_and_cleared(tmp_path, repository, state):
    with pytest.raises(RiceError, match=r"not ready within 0.3 s \(log: "):
        life.start(stand_in(tmp_path / "env", "hangs"), repository, "rice", state, ready_timeout_s=0.3)
    assert life.find(state) == []
    assert [path.name for path in state.iterdir()] == ["tritonserver.log"]


def test_a_server_that_ignores_the_request_to_stop_is_killed(tmp_path, repository, state, monkeypatch):
    monkeypatch.setattr(life, "CALL_SECONDS", 0.5)
    with pytest.raises(RiceError, match="not ready"):
        life.start(stand_in(tmp_path / "env", "stubborn"), repository, "rice", state, ready_timeout_s=1)
    assert life.find(state) == []


def test_what_a_killed_server_left_is_cleared_by_the_next_start(tmp_path, repository, state):
    environment = stand_in(tmp_path / "env", "ready")
    first = life.start(environment, repository, "rice", state)
    region = life.SHARED_MEMORY / f"{life.mark(state)}left-behind"
    region.touch()
    kill(state)
    assert life.running(state) is None
    assert str(region) in first.leftovers()
    second = life.start(environment, repository, "rice", state)
    assert not region.exists()
    assert second.is_ready()


def test_a_tied_server_ends_with_the_process_that_started_it_even_if_killed(tmp_path, repository, state):
    stand_in(tmp_path / "env", "ready")
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from rice_lib.serving import server; from rice_lib.serving.environment import *;"
        "t = Path(sys.argv[2]); v = '%d.%d' % sys.version_info[:2];"
        "e = ServingEnvironment(t / 'env', t / 'env' / 'site', v, t / 'env' / 'lib');"
        "server.start(e, t / 'repository', 'rice', t / 'server'); print('up', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT / "src"), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "up\n"
    server = life.running(state)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([psutil.Process(server.pid)] if psutil.pid_exists(server.pid) else [], timeout=20)
    assert alive == []


def test_a_port_in_use_is_named_before_anything_starts(tmp_path, repository, state):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(RiceError, match=rf"port {port} \(gRPC\): Address already in use"):
            life.start(stand_in(tmp_path / "env", "ready"), repository, "rice", state, port=port - 1)
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("port", [0, 65534, -1])
def test_a_port_that_cannot_be_is_named(tmp_path, repository, state, port):
    with pytest.raises(RiceError, match="between 1 and 65533"):
        life.start(stand_in(tmp_path / "env", "ready"), repository, "rice", state, port=port)


def test_a_missing_model_is_named(tmp_path, repository, state):
    with pytest.raises(RiceError, match="no model named wheat"):
        life.start(stand_in(tmp_path / "env", "ready"), repository, "wheat", state)
    assert not state.exists()


def test_two_starts_at_the_same_time(tmp_path, repository, state):
    state.mkdir()
    with locked(state, "-"), pytest.raises(RiceError, match="another start"):
        life.start(stand_in(tmp_path / "env", "ready"), repository, "rice", state)


def test_a_damaged_state_file_counts_as_none(state):
    state.mkdir()
    (state / "state.json").write_text('{"pid": 1, "unknown": 2}')
    assert life.read_state(state) is None
    assert life.stop(state) is None
    assert not (state / "state.json").exists()


def ask(server, path="/"):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def the_server(state):
    """The process that the supervisor started."""
    (server,) = psutil.Process(life.running(state).pid).children()
    return server


def test_the_servers_key_is_its_owners_alone(tmp_path, repository, state):
    server = life.start(stand_in(tmp_path / "env", "ready"), repository, "rice", state)
    assert (state / KEY_FILE).stat().st_mode & 0o777 == 0o600
    given = [word for word in ask(server).splitlines() if server.key in word]
    protected = f"=model-repository,shared-memory,trace,logging:rice-control={server.key}"
    assert given == [f"--http-restricted-api{protected}", f"--grpc-restricted-protocol{protected}"]
    for process in life.find(state):
        assert server.key not in " ".join(process.cmdline())
    before = server.key
    server.stop()
    assert not (state / KEY_FILE).exists()
    assert life.start(stand_in(tmp_path / "other", "ready"), repository, "rice", state).key != before


@pytest.mark.parametrize("traced", [True, False])
def test_words_are_kept_off_the_command_line_where_processes_may_be_traced(monkeypatch, capfd, traced):
    if not traced:
        libc = SimpleNamespace(prctl=supervise._LIBC.prctl, ptrace=lambda *_: -1)
        monkeypatch.setattr(supervise, "_LIBC", libc)
    code = "import sys; print(sys.argv[1:], flush=True); import time; time.sleep(600)"
    command, said = [sys.executable, "-c", code, "plain", "RICE_HIDDEN_ONE"], ""
    process = supervise.spawn(command, dict(os.environ), {"RICE_HIDDEN_ONE": "--key=se cret"})
    try:
        while not said.endswith("]\n"):  # an unbuffered Python writes the line's end on its own
            assert process.poll() is None
            said += capfd.readouterr().out
        assert said.endswith("['plain', '--key=se cret']\n")
        assert ("--key=se cret" in psutil.Process(process.pid).cmdline()) != traced
        assert ("no process may be traced" in said) != traced
    finally:
        process.kill()
        process.wait()


def test_a_server_that_dies_is_started_again_with_the_same_key(tmp_path, repository, state):
    server = life.start(stand_in(tmp_path / "env", "ready"), repository, "rice", state)
    key, before = server.key, the_server(state)
    region = life.SHARED_MEMORY / f"{life.mark(state)}left-behind"
    region.touch()
    before.kill()
    psutil.wait_procs([before], timeout=10)
    wait_until_ready(server, 30)
    assert the_server(state).pid != before.pid
    assert key in ask(server)
    assert not region.exists()
    assert "the server ended (-9): starting it again" in Path(server.log).read_text()
    assert life.running(state) == server
    server.stop()
    assert server.leftovers() == []


def test_a_server_has_room_for_large_bodies_and_many_connections(tmp_path, repository, state):
    life.start(stand_in(tmp_path / "env", "ready"), repository, "rice", state)
    limits = {kind: the_server(state).rlimit(kind) for kind in (psutil.RLIMIT_STACK, psutil.RLIMIT_NOFILE)}
    for (soft, hard), wanted in zip(limits.values(), (512 * 2**20, 65536), strict=True):
        assert soft == psutil.RLIM_INFINITY or soft >= (wanted if hard == psutil.RLIM_INFINITY else min(wanted, hard))


def test_the_log_is_bounded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervise, "LOG_BYTES", 300)
    monkeypatch.setattr(supervise, "LOOK_SECONDS", 0)
    code = "import time\nfor n in range(100): print(f'line {n:3}', flush=True); time.sleep(0.02)"
    with open("tritonserver.log", "ab") as log, subprocess.Popen([sys.executable, "-c", code], stdout=log) as process:
        assert supervise._serve(process, threading.Event()) == 0
    kept = [(tmp_path / name).read_text() for name in ("tritonserver.log.1", "tritonserver.log")]
    assert all(len(text) < 900 for text in kept)
    assert kept[-1].endswith("line  98\nline  99\n")


def test_an_address_of_another_machine_is_named():
    with pytest.raises(RiceError, match=r"203\.0\.113\.7 port .*: Cannot assign .*; choose another --port or --host"):
        require_free(free_ports(), "203.0.113.7")


def test_no_environment_says_what_makes_one(tmp_path, monkeypatch):
    monkeypatch.delenv("RICE_SERVE_ENV", raising=False)
    with pytest.raises(MissingEnvironmentError, match="make serve-env"):
        ServingEnvironment.find(tmp_path)


def test_a_broken_environment_is_an_error_of_its_own(tmp_path, monkeypatch):
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'No module named pytriton' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv("RICE_SERVE_ENV", str(tmp_path / "env"))
    with pytest.raises(RiceError, match="No module named pytriton") as caught:
        ServingEnvironment.find(tmp_path)
    assert not isinstance(caught.value, MissingEnvironmentError)


def test_an_environment_without_pythons_library_says_what_to_install(tmp_path, monkeypatch):
    environment = stand_in(tmp_path / "env", "ready")
    environment.interpreter.unlink()
    environment.interpreter.write_text(
        f'#!/bin/sh\necho \'["{environment.site}", "{environment.python}", "/x", "1.2"]\'\n'
    )
    environment._stub.write_text("#!/bin/sh\necho 'libpython.so: cannot open' >&2\nexit 127\n")
    for file in (environment.interpreter, environment._stub):
        file.chmod(0o755)
    monkeypatch.setenv("RICE_SERVE_ENV", str(tmp_path / "env"))
    with pytest.raises(RiceError, match=r"stub does not start \(libpython\.so: cannot open\); .* install libpython3"):
        ServingEnvironment.find(tmp_path)


@real
@pytest.mark.slow
def test_the_real_server_from_start_to_kill_to_stop(tmp_path, repository):
    home = tmp_path / "Mein Reis é 米 #1 (a&b) $x 'y' 100%"  # Triton starts its workers through an unquoted shell
    home.mkdir()
    repository, state = repository.rename(home / "repository"), home / "server"
    environment = ServingEnvironment.find(make_checkout(tmp_path / "root", environment=True))
    server = life.start(environment, repository, "rice", state, ready_timeout_s=180)
    pixels = np.random.default_rng(3).integers(0, 256, (19, 224, 224, 3), dtype=np.uint8)
    expected = open_predictor(tmp_path / "model.onnx").logits(pixels)
    for protocol, address in (("http", server.http), ("grpc", server.grpc)):
        with TritonPredictor(address, "rice", protocol) as client:
            assert client.max_batch == 8
            np.testing.assert_allclose(client.logits(pixels), expected, atol=1e-3)  # 8 + 8 + 3
            assert client.logits(pixels[:0]).shape == (0, 5)
    assert [item for item in server.leftovers() if item.startswith("/dev/shm/")]  # the mark is really theirs
    kill(state)
    assert life.running(state) is None
    server = life.start(environment, repository, "rice", state, ready_timeout_s=180)
    assert server.stop() is not None
    assert server.leftovers() == []
    assert not list(life.SHARED_MEMORY.glob(f"{life.mark(state)}*"))  # of this server alone: others may run


@real
@pytest.mark.slow
def test_the_real_server_says_why_it_cannot_load_a_model(tmp_path, repository, state):
    (repository / "rice_v1" / "1" / "model.onnx").write_bytes(b"not a model")
    environment = ServingEnvironment.find(make_checkout(tmp_path / "root", environment=True))
    with pytest.raises(RiceError, match=r"did not start: .*(INVALID_PROTOBUF|Protobuf).*tritonserver\.log"):
        life.start(environment, repository, "rice", state, ready_timeout_s=180)
    assert [path.name for path in state.iterdir()] == ["tritonserver.log"]
    assert Path(state / "tritonserver.log").stat().st_size > 0
