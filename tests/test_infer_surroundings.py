"""The prediction command and its surroundings: streams, files, signals, and what it touches."""

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.models import tiny_onnx, write_grains

from rice_lib import infer
from rice_lib.common.errors import RiceError


@pytest.fixture
def images(tmp_path) -> list[Path]:
    return write_grains(tmp_path / "images", 7)


def test_an_output_that_cannot_be_written_is_said_at_once(images, tmp_path):
    with pytest.raises(RiceError, match="cannot be written"):
        infer.main([str(images[0]), "--model", str(tiny_onnx()), "--output", str(tmp_path / "no" / "out.csv")])


def test_a_list_that_comes_slowly_is_answered_as_it_comes(images):
    line = [sys.executable, "-m", "rice_lib.infer", "-", "--model", str(tiny_onnx()), "--format", "jsonl"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for file in images[:3]:
            process.stdin.write(f"{file}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["path"] == str(file)
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_interrupted_while_waiting_for_stdin_it_ends_quietly(images):
    line = [sys.executable, "-m", "rice_lib.infer", "-", "--model", str(tiny_onnx()), "--format", "jsonl"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # started in the background of a shell, the tests ignore SIGINT, and a child would inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(line, **pipes) as process:
        signal.signal(signal.SIGINT, before)
        process.stdin.write(f"{images[0]}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().decode().splitlines()[-1].startswith("interrupted")


def test_a_reader_that_goes_away_is_no_error(images):
    command = [sys.executable, "-m", "rice_lib.infer", "--no-reject", "--model", tiny_onnx(), images[0].parent]
    line = f"{shlex.join(map(str, command))} --batch-size 1 | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=120, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert not done.stderr


def test_onnx_prediction_imports_nothing_heavy(images):
    code = (
        "import sys; from rice_lib import infer; "
        f"infer.main([{str(images[0])!r}]); "
        "heavy = {'torch', 'transformers', 'pandas', 'mlflow', 'pydantic', 'yaml', 'scipy', 'tqdm', 'onnx', 'cv2', "
        "'ray', 'pyarrow', 'shtab', 'hashlib', 'shutil', 'numpy.ma'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# --- what it writes, and where


SOURCE = str(Path(infer.__file__).parents[1])


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line of shell in a folder, `infer` for the command."""
    command = shlex.join([sys.executable, "-m", "rice_lib.infer", "--model", str(tiny_onnx())])
    command = f'infer() {{ {command} "$@"; }}; {line}'
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    options = {"capture_output": True, "text": True, "timeout": 120}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=False, **options)


def tree_of(*folders: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}


def test_a_prediction_writes_nothing_else_and_looks_up_no_name(images, tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    before = tree_of(tmp_path)
    code = (
        "import socket, sys\n"
        "def looked_up(*arguments, **options): sys.exit(f'looked up {arguments}')\n"
        "socket.getaddrinfo = socket.gethostbyname = socket.socket.connect = looked_up\n"
        "from rice_lib import infer\n"
        "sys.exit(infer.main(sys.argv[1:]))\n"
    )
    line = [sys.executable, "-c", code, str(images[0].parent), "--output", "out.csv"]
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    environment |= {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": SOURCE}
    done = subprocess.run(line, cwd=work, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(tree_of(tmp_path)) - set(before) == {str(work / "out.csv")}


def test_an_output_never_replaces_what_is_read(images, tmp_path):
    listed = tmp_path / "list"
    listed.write_text(f"{images[0]}\n")
    model = tmp_path / "model"
    model.write_bytes(tiny_onnx().read_bytes())
    (tmp_path / "photo").write_bytes(images[0].read_bytes())
    (tmp_path / "link").symlink_to("photo")
    before = tree_of(tmp_path)
    for line, why in (
        (["--output", *images], "named as an image"),
        ([images[0], "--output", images[0]], "named as an image"),
        ([images[0], "--output", tmp_path / "new.HEIC"], "named as an image"),
        ([tmp_path / "photo", "--output", tmp_path / "link"], "is read as .*photo"),
        ([images[0], tmp_path / "link", "--output", tmp_path / "photo"], "is read as .*link"),
        ([tmp_path / "link", "--grains", "--output", tmp_path / "photo"], "is read as .*link"),
        ([images[0], "--output", model, "--model", model], "is read as .*model"),
        ([images[0], "--output", tmp_path], "is a folder"),
        ([images[0], "--grains", "--output", tmp_path], "is a folder"),
    ):
        with pytest.raises(RiceError, match=why):
            infer.main(list(map(str, line)))
    done = shell("infer - --output list < list", tmp_path)
    assert (done.returncode, "is read as -" in done.stderr) == (2, True)
    assert tree_of(tmp_path) == before


@pytest.mark.parametrize(("suffix", "form"), [("json", None), ("tsv", None), ("json", "jsonl")])
def test_a_suffix_that_names_no_format_is_an_error_without_one(suffix, form, images, tmp_path, capsys):
    output = tmp_path / f"out.{suffix}"
    line = [str(images[0]), "--model", str(tiny_onnx()), "--output", str(output)]
    if form:
        assert infer.main([*line, "--format", form]) == 0
        assert json.loads(output.read_text())["path"] == str(images[0])
        return
    with pytest.raises(RiceError, match=rf"no format has the suffix \.{suffix}; name one with --format"):
        infer.main(line)
    assert not output.exists()


# --- the surroundings


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("> /dev/full", 2, "No space left on device"),
        (">&-", 2, "Bad file descriptor"),
        ("> /dev/null <&-", 0, ""),
        ("--output out.csv >&- <&- 2>&-", 0, ""),
        ("--output /dev/full", 2, "error: /dev/full: cannot be written (not an ordinary file)"),
        ("- <&-", 2, "error: the list on stdin cannot be read (Bad file descriptor)"),
        ("--output $(printf %0251d 0).csv", 2, "File name too long"),
        ("--output $(printf %0247d 0)", 0, ""),
    ],
)
def test_where_the_streams_lead_it_is_one_line_at_most(redirection, status, said, images, tmp_path):
    done = shell(f"infer --no-reject '{images[0]}' {redirection}", tmp_path)
    assert done.returncode == status
    assert said in done.stderr
    assert not said or done.stderr.startswith(f"error: {'stdout' if redirection[0] == '>' else ''}")
    assert len(done.stderr.splitlines()) == (1 if said else 0)
    assert not done.stdout


def test_with_stderr_closed_messages_do_not_go_to_stdout(images, tmp_path):
    done = shell(f"infer --format csv '{images[0]}' none.png 2>&-", tmp_path)
    assert done.returncode == 1
    assert [row["path"] for row in csv.DictReader(io.StringIO(done.stdout))] == [str(images[0]), "none.png"]


def test_without_docstrings_and_with_few_descriptors(images, tmp_path):
    done = shell("export PYTHONOPTIMIZE=2 PYTHONDONTWRITEBYTECODE=1; ulimit -n 64; infer --no-reject images", tmp_path)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, len(images), "")


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_stdout_is_data_alone(form, tmp_path):
    images = write_grains(tmp_path, 2)
    line = [sys.executable, "-m", "rice_lib.infer", *map(str, images), "none.png", "--model", str(tiny_onnx())]
    done = subprocess.run([*line, "--format", form], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "carries no rejection rule" in done.stderr
    if form == "jsonl":
        paths = [json.loads(text)["path"] for text in done.stdout.splitlines()]
    else:
        paths = [row["path"] for row in csv.DictReader(io.StringIO(done.stdout))]
    assert paths == [*map(str, images), "none.png"]
