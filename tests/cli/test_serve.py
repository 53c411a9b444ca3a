import http.client
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import psutil
import pytest
from support.triton import HAS_SERVER, NO_SERVER, make_checkout, write_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.cli.serve import main
from rice_lib.common.errors import RiceError
from rice_lib.serving import server as life
from rice_lib.serving.load import send_file
from rice_lib.serving.release import release
from rice_lib.serving.repository import Repository, drawn_grain
from rice_lib.serving.server import KEY_FILE, free_ports

PROFILE = ("--profile", "tiny")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("RICE_SERVE_ENV", raising=False)
    root = make_checkout(tmp_path / "root", environment=HAS_SERVER)
    monkeypatch.setenv("RICE_ROOT", str(root))
    yield root
    for folder in (root / "models" / "tiny" / "service", root / "models" / "service"):
        if folder.exists():
            life.stop(folder, timeout_s=10)


def test_status_says_by_its_exit_that_nothing_runs(checkout, capsys):
    assert main(["status", *PROFILE]) == 1
    assert capsys.readouterr().out == "no server is running\n"


def test_down_twice_does_no_harm(checkout, capsys):
    (checkout / "models" / "tiny" / "service").mkdir()
    assert [main(["down", *PROFILE]) for _ in range(2)] == [0, 0]
    assert "no server was running" in capsys.readouterr().out


def test_a_build_without_a_model_says_how_to_come_by_one(checkout):
    (checkout / "models" / "tiny" / "onnx" / "model.onnx").unlink()
    with pytest.raises(RiceError, match=r"models/tiny/onnx/model\.onnx: no such model; run the profile first"):
        main(["build", *PROFILE])


@pytest.mark.parametrize("profile", [(), PROFILE])
def test_a_build_of_a_model_that_is_not_there_names_it_and_no_profile(checkout, profile):
    with pytest.raises(RiceError, match=r"missing\.onnx: no such model") as caught:
        main(["build", *profile, "--model", "missing.onnx"])
    assert "PROFILE" not in str(caught.value)


@pytest.mark.parametrize("host", ["::1", "localhost", "127.0.0"])
def test_a_host_that_is_no_ipv4_address_is_named(checkout, capsys, host):
    with pytest.raises(SystemExit):
        main(["up", *PROFILE, "--host", host])
    assert f"argument --host: invalid IPv4Address value: '{host}'" in capsys.readouterr().err


def test_up_without_an_environment_says_what_makes_one(checkout):
    (checkout / ".venv-serve").unlink(missing_ok=True)
    with pytest.raises(RiceError, match="make serve-env"):
        main(["up", *PROFILE])
    assert not (checkout / "models" / "tiny" / "service").exists()


def test_a_build_before_a_server_runs_and_back(checkout, capsys):
    assert main(["build", *PROFILE]) == 0
    other = write_onnx(checkout / "other.onnx", ("One", "Two", "Three"))
    assert main(["build", *PROFILE, "--model", str(other)]) == 0
    repository = Repository(checkout / "models" / "tiny" / "service" / "repository")
    assert repository.active().version == 2
    assert main(["build", *PROFILE, "--rollback"]) == 0
    assert repository.active().version == 1
    assert "version 1 answers again" in capsys.readouterr().out
    with pytest.raises(RiceError, match="no earlier version"):
        main(["build", *PROFILE, "--rollback"])


def test_without_a_profile_the_model_that_ships_is_served(checkout):
    assert main(["build"]) == 0
    about = Repository(checkout / "models" / "service" / "repository").active()
    assert about.source.endswith("rice-vit-tiny.onnx")


@pytest.mark.parametrize("url", ["box", "box:http", ":8000"])
def test_health_wants_an_address(url):
    with pytest.raises(RiceError, match="--url"):
        main(["health", "--url", url])


def test_health_of_nothing_is_1(capsys):
    assert main(["health", "--url", "127.0.0.1:1"]) == 1
    assert capsys.readouterr().out == "127.0.0.1:1: not ready\n"


def test_a_profile_that_is_not_there_is_one_line_and_status_2(checkout):
    command = [sys.executable, "-m", "rice_lib", "serve", "status", "--profile", "tinny"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)
def test_up_new_version_under_load_back_and_down(checkout):
    def serve(*arguments):
        command = [sys.executable, "-m", "rice_lib", "serve", *arguments, *PROFILE]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    port = str(free_ports())
    up = serve("up", "--port", port, "--timeout", "180")
    assert up.returncode == 0, up.stderr
    address = f"127.0.0.1:{port}"
    assert f"triton://{address}/rice" in up.stdout
    assert serve("status").returncode == 0  # it runs on although the command that started it has ended
    assert main(["health", "--url", address]) == 0
    again = serve("up", "--port", port)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "already running" in again.stderr

    stop, statuses = threading.Event(), []

    def ask():
        while not stop.is_set():
            statuses.append(send_file(address, "rice_bytes", drawn_grain())[0])

    thread = threading.Thread(target=ask)
    thread.start()
    other = write_onnx(checkout / "other.onnx", ("One", "Two", "Three"))
    built = serve("build", "--model", str(other))
    assert built.returncode == 0, built.stderr
    assert set(send_file(address, "rice_bytes", drawn_grain())[1]["scores"]) == {"One", "Two", "Three"}
    assert serve("build", "--rollback").returncode == 0
    stop.set()
    thread.join()
    assert set(statuses) == {200}
    assert main(["health", "--url", address]) == 0
    with open_predictor(f"triton://{address}/rice") as predictor:
        assert predictor.labels[0] == "Arborio"

    # one that the server cannot load is removed, and the one before still answers
    folder = checkout / "models" / "tiny" / "service" / "repository"
    third = Repository(folder).add(write_onnx(checkout / "third.onnx", ("A", "B")), 4)
    broken = Repository(folder).classifier(third.version) / "config.pbtxt"
    broken.write_text(broken.read_text().replace("onnxruntime", "no_such_backend"))
    with pytest.raises(RiceError, match=r"version \d is not taken into service: .*no_such_backend"):
        release(Repository(folder), third, life.running(folder.parent))
    assert not broken.exists()
    assert send_file(address, "rice_bytes", drawn_grain())[0] == 200

    down = serve("down")
    assert (down.returncode, down.stdout.split()[0]) == (0, "stopped")
    assert serve("status").returncode == 1
    left = {path.name for path in (checkout / "models" / "tiny" / "service").iterdir()}
    assert left == {"tritonserver.log", "repository"}


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)
def test_on_a_public_address_model_control_takes_the_key(checkout, capsys):
    port, service = free_ports(), checkout / "models" / "tiny" / "service"
    assert main(["up", *PROFILE, "--host", "0.0.0.0", "--port", str(port), "--timeout", "180"]) == 0
    assert "can be reached by others" in capsys.readouterr().out
    address = f"127.0.0.1:{port}"
    calls = ("models/rice/unload", "models/rice/load", "index")
    for headers in ({}, {"Content-Type": "text/plain"}, {"rice-control": "0" * 32}):
        assert [post(address, f"/v2/repository/{call}", headers)[0] for call in calls] == [403] * 3
    for path in ("/v2/systemsharedmemory/status", "/v2/logging", "/v2/trace/setting"):
        assert post(address, path, {}, "GET")[0] == 403
    assert post(address, "/v2/repository/index", {"rice-control": (service / KEY_FILE).read_text()})[0] == 200
    with open_predictor(f"triton://{address}/rice") as predictor:
        assert np.isfinite(predictor.logits(np.zeros((1, 224, 224, 3), np.uint8))).all()
    other = write_onnx(checkout / "other.onnx", ("One", "Two", "Three"))
    assert main(["build", *PROFILE, "--model", str(other)]) == 0
    assert set(send_file(address, "rice_bytes", drawn_grain())[1]["scores"]) == {"One", "Two", "Three"}

    # files switched without the server, as by a build that was killed: the same build asks the server
    repository = Repository(service / "repository")
    repository.switch(1)
    assert main(["build", *PROFILE]) == 0
    assert "version 1 answers" in capsys.readouterr().out
    with open_predictor(f"triton://{address}/rice") as predictor:
        assert predictor.version == "1"

    key = (service / KEY_FILE).read_text()
    (service / KEY_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"control\.key"):
        main(["build", *PROFILE, "--model", str(other)])
    assert key not in (service / life.LOG_FILE).read_text()
    assert main(["down", *PROFILE]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)
def test_a_dead_worker_is_seen_and_started_again(checkout, capsys):
    port = free_ports()
    assert main(["up", *PROFILE, "--port", str(port), "--timeout", "180"]) == 0
    supervisor = psutil.Process(life.running(checkout / "models" / "tiny" / "service").pid)
    (server,) = supervisor.children()
    victim = next(worker for worker in server.children() if "rice_v1_decode" in " ".join(worker.cmdline()))
    supervisor.suspend()  # or it would be quicker than we
    victim.kill()
    assert main(["health", "--url", f"127.0.0.1:{port}"]) == 1
    assert "is not healthy" in capsys.readouterr().out
    supervisor.resume()
    psutil.wait_procs([server], timeout=60)
    until = time.monotonic() + 120
    while main(["health", "--url", f"127.0.0.1:{port}"]) != 0:
        assert time.monotonic() < until
        time.sleep(1)
    assert main(["status", *PROFILE]) == 0
    assert main(["down", *PROFILE]) == 0


def post(address, path, headers, method="POST"):
    """Status and body of a request."""
    with closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        connection.request(method, path, body="{}" if method == "POST" else None, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
