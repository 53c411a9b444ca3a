"""The page "Beside your application": every client on it, typed through against a real server."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from support.triton import HAS_SERVER, NO_SERVER, ROOT, write_onnx

from rice_lib.serving import server as life
from rice_lib.serving.control import Control
from rice_lib.serving.environment import ServingEnvironment
from rice_lib.serving.load import send_file
from rice_lib.serving.repository import drawn_grain, write_repository

PAGE = ROOT / "docs" / "beside.qmd"
BLOCKS = [block for block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S) if block[0] != "nginx"]
RUNS = {"sh": "bash", "python": sys.executable, "js": "node"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_SERVER, reason=NO_SERVER)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    write_repository(write_onnx(folder / "model.onnx"), folder / "repository", "rice", 8)
    environment, repository = ServingEnvironment.find(ROOT), folder / "repository"
    running = life.start(environment, repository, "rice", folder / "server", ready_timeout_s=180)
    yield running
    running.stop()


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[f"{i} {block[0]}" for i, block in enumerate(BLOCKS)])
def test_a_client_on_the_page_classifies_a_photograph(server, tmp_path, language, code):
    if not shutil.which(RUNS[language]):
        pytest.skip(f"{RUNS[language]} is not installed")
    (tmp_path / "grain.jpg").write_bytes(drawn_grain())
    expected = send_file(server.http, "rice_bytes", drawn_grain())[1]
    (tmp_path / "client").write_text(code := code.replace("127.0.0.1:8000", server.http))
    command = [RUNS[language], "client", "grain.jpg"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "FileClient" in code:
        assert done.stdout == f"grain.jpg {expected['label']}\n"
    else:
        assert json.loads(done.stdout) == expected


def test_the_page_has_a_client_of_each_kind():
    assert [language for language, _ in BLOCKS] == ["sh", "sh", "python", "python", "js"]


def test_no_proxy_stands_between_grpc_and_this_machine(server, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "grain.jpg").write_bytes(drawn_grain())
    model = f"triton+grpc://{server.grpc}/rice_bytes"
    command = [sys.executable, "-m", "rice_lib.infer", "grain.jpg", "--model", model, "--format", "jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"]
    with Control(server) as control:
        assert "rice_v1_decode" in control.loaded()
        assert control.version("rice") == 1
