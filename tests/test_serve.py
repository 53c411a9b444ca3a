import subprocess
import sys

import pytest
from triton_support import HAS_SERVER, NO_SERVER, make_checkout

from rice_lib.deploy.predictors import open_predictor
from rice_lib.deploy.triton import server as life
from rice_lib.errors import RiceError
from rice_lib.serve import main


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("RICE_SERVE_ENV", raising=False)
    root = make_checkout(tmp_path / "root", environment=HAS_SERVER)
    monkeypatch.setenv("RICE_ROOT", str(root))
    yield root
    life.stop(root / "models" / "tiny" / "server", timeout_s=10)


def test_status_says_by_its_exit_that_nothing_runs(checkout, capsys):
    assert main(["status", "--profile", "tiny"]) == 1
    assert capsys.readouterr().out == "no server is running\n"


def test_down_twice_does_no_harm(checkout, capsys):
    assert [main(["down", "--profile", "tiny"]) for _ in range(2)] == [0, 0]
    assert "no server was running" in capsys.readouterr().out


def test_up_without_a_model_says_how_to_come_by_one(checkout):
    (checkout / "models" / "tiny" / "onnx" / "model.onnx").unlink()
    with pytest.raises(RiceError, match=r"models/tiny/onnx/model\.onnx: no such model; run the profile first"):
        main(["up", "--profile", "tiny"])


def test_up_without_an_environment_says_what_makes_one(checkout):
    (checkout / ".venv-serve").unlink(missing_ok=True)
    with pytest.raises(RiceError, match="make serve-env"):
        main(["up", "--profile", "tiny"])
    assert not (checkout / "models" / "tiny" / "repository").exists()


def test_a_profile_that_is_not_there_is_one_line_and_status_2(checkout):
    command = [sys.executable, "-m", "rice_lib.serve", "status", "--profile", "tinny"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)
def test_up_status_use_second_up_down(checkout):
    def serve(*arguments):
        command = [sys.executable, "-m", "rice_lib.serve", *arguments, "--profile", "tiny"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    port = str(life._free_ports())
    up = serve("up", "--port", port, "--timeout", "180")
    assert up.returncode == 0, up.stderr
    assert f"triton://127.0.0.1:{port}/rice" in up.stdout
    assert serve("status").returncode == 0  # it goes on although the command that started it has ended
    with open_predictor(f"triton://127.0.0.1:{port}/rice") as predictor:
        assert predictor.labels[0] == "Arborio"
    again = serve("up", "--port", port)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "already running" in again.stderr
    down = serve("down")
    assert (down.returncode, down.stdout.split()[0]) == (0, "stopped")
    assert serve("status").returncode == 1
    assert [path.name for path in (checkout / "models" / "tiny" / "server").iterdir()] == ["tritonserver.log"]
