"""Output files that survive an interruption, and Parquet."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
from support.images import write_small
from support.models import tiny_onnx, write_grains

from rice_lib import infer
from rice_lib.common.errors import RiceError
from rice_lib.predict import resume
from rice_lib.predict.inputs import expand

AWKWARD = ["new\nline.png", 'quo"te,\r.png', "süß.png", os.fsdecode(b"latin-\xe9.png")]


def run(*arguments) -> int:
    return infer.main([*map(str, arguments), "--model", str(tiny_onnx()), "--no-reject"])


def process(*arguments, **options) -> subprocess.Popen:
    line = [sys.executable, "-m", "rice_lib.infer", "--model", str(tiny_onnx()), "--no-reject", *map(str, arguments)]
    # started in the background of a shell, the tests ignore SIGINT, and a child would inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    finally:
        signal.signal(signal.SIGINT, before)


def partial_of(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def read_parquet(file: Path) -> list[dict]:
    from pyarrow import parquet

    return parquet.read_table(file).to_pylist()


# --- interrupted, and resumed


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_killed_again_and_again_the_records_are_those_of_one_run(form, tmp_path):
    files = write_small(tmp_path / "images", 396)
    for name, file in zip(AWKWARD, files[50::90], strict=False):
        file.rename(file.with_name(name))
    (tmp_path / "images" / "broken.png").write_bytes(b"no")
    once, output = tmp_path / f"once.{form}", tmp_path / f"out.{form}"
    assert run(tmp_path / "images", "--output", once) == 1
    partial, killed, size = partial_of(output), 0, 0
    while not output.exists():
        with process(tmp_path / "images", "--output", output, "--resume", "--batch-size", 4) as child:
            enough = size + 9000
            wait_until(lambda: child.poll() is not None or size_of(partial) > enough)  # noqa: B023
            if killed < 4:
                child.kill()
            child.communicate(timeout=60)
        if child.returncode == -signal.SIGKILL:
            killed += 1
            size = size_of(partial)
        else:
            assert child.returncode == 1
    assert killed >= 2
    if form == "parquet":
        assert read_parquet(output) == read_parquet(once)
    else:
        assert output.read_bytes() == once.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["images", once.name, output.name])


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Seven images, of which an interrupted run predicted four."""
    images = write_grains(tmp_path / "images", 7)

    def start(output: Path, *arguments) -> list[Path]:
        def four(names):
            yield from islice(expand(names), 4)
            time.sleep(0.3)  # they are predicted by now
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(infer, "expand", four)
            with pytest.raises(KeyboardInterrupt):
                run(*images, "--output", output, *arguments)
        return images

    return start


@pytest.mark.parametrize(("form", "lost"), [("jsonl", 1), ("csv", 2), ("txt", 30), ("csv", 90)])
def test_a_torn_record_is_predicted_again(form, lost, interrupted, tmp_path, capsys):
    output, once = tmp_path / f"out.{form}", tmp_path / f"once.{form}"
    images = interrupted(output)
    partial = partial_of(output)
    partial.write_bytes(partial.read_bytes()[:-lost])
    assert run(*images, "--output", output, "--resume") == run(*images, "--output", once) == 0
    assert output.read_bytes() == once.read_bytes()
    assert "resuming after the 3 records" in capsys.readouterr().err


@pytest.mark.parametrize("left", [b"", b'{"model": "ab'])
def test_a_torn_first_line_is_written_again(left, interrupted, tmp_path):
    output, once = tmp_path / "out.csv", tmp_path / "once.csv"
    images = interrupted(output)
    partial_of(output).write_bytes(left)
    assert run(*images, "--output", output, "--resume") == run(*images, "--output", once) == 0
    assert output.read_bytes() == once.read_bytes()


def test_earlier_failures_count_in_the_status(interrupted, tmp_path):
    output = tmp_path / "out.jsonl"
    images = interrupted(output)
    images[1].unlink()
    partial = partial_of(output)
    lines = partial.read_text().splitlines(keepends=True)
    lines[2] = json.dumps({"path": str(images[1]), "error": "no such file"}) + "\n"
    partial.write_text("".join(lines))
    assert run(*images, "--output", output, "--resume") == 1
    assert len(output.read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--top-k", 2], "was begun with top-k 5, not 2"),
        (["--format", "csv"], "was begun with format jsonl, not csv"),
        (["--model", "other"], "was begun with another model"),
    ],
)
def test_another_configuration_does_not_resume(arguments, why, interrupted, tmp_path):
    output = tmp_path / "out.jsonl"
    images = interrupted(output)
    before = partial_of(output).read_bytes()
    line = [*images, "--output", output, "--resume", "--model", tiny_onnx(), "--no-reject", *arguments]
    if "other" in line:
        line[line.index("other")] = tiny_onnx(False)
    with pytest.raises(RiceError, match=why):
        infer.main(list(map(str, line)))
    with pytest.raises(RiceError, match="reject False, not True"):
        infer.main([*map(str, images), "--output", str(output), "--resume", "--model", str(tiny_onnx())])
    assert partial_of(output).read_bytes() == before


def test_other_inputs_do_not_resume(interrupted, tmp_path):
    output = tmp_path / "out.jsonl"
    images = interrupted(output)
    before = partial_of(output).read_bytes()
    for now, why in (
        ([images[0], images[2], *images[2:]], r"record 2 is of .*\(1\).*input 2 is now .*\(2\)"),
        (images[:3], r"record 4 is of .*\(3\).*the inputs now end before it"),
    ):
        with pytest.raises(RiceError, match=why):
            run(*now, "--output", output, "--resume")
        assert partial_of(output).read_bytes() == before


@pytest.mark.parametrize(
    ("line", "why"),
    [(0, "its first line, the configuration, cannot be read"), (1, "record 1 cannot be read; delete it to start over")],
)
@pytest.mark.parametrize("damage", ["nonsense\n", "[1]\n"])
def test_damage_is_named(line, why, damage, interrupted, tmp_path):
    output = tmp_path / "out.jsonl"
    images = interrupted(output)
    lines = partial_of(output).read_text().splitlines(keepends=True)
    partial_of(output).write_text("".join([*lines[:line], damage, *lines[line:]]))
    with pytest.raises(RiceError, match=why):
        run(*images, "--output", output, "--resume")


def test_resume_with_nothing_to_resume_begins_and_with_a_complete_output_ends(tmp_path, capsys):
    images, output = write_grains(tmp_path / "images", 2), tmp_path / "out.csv"
    assert run(*images, "--output", output, "--resume") == 0
    before = output.stat()
    assert run(*images, "--output", output, "--resume", "--model", "none.onnx") == 0
    assert output.stat().st_mtime_ns == before.st_mtime_ns
    assert "already complete" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "jsonl", "csv", "parquet"])
def test_a_complete_output_leaves_the_status_that_its_run_left(form, tmp_path):
    images = write_grains(tmp_path / "images", 2)
    good, bad = tmp_path / f"good.{form}", tmp_path / f"bad.{form}"
    named = tmp_path / '"error": "x.png'
    images[0].rename(named)
    for _ in range(2):
        assert run(named, images[1], "--output", good, "--resume") == 0
        assert run(named, "none.png", "--output", bad, "--resume") == 1


def test_a_link_stays(tmp_path):
    (image,) = write_grains(tmp_path / "images", 1)
    (tmp_path / "place").mkdir()
    link, written = tmp_path / "link.csv", tmp_path / "place" / "out.csv"
    link.symlink_to("place/out.csv")
    for _ in range(2):
        assert run(image, "--output", link) == 0
        assert link.is_symlink()
        assert len(written.read_text().splitlines()) == 2


def test_two_runs_do_not_write_one_file(interrupted, tmp_path):
    import fcntl

    output = tmp_path / "out.jsonl"
    images = interrupted(output)
    with partial_of(output).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RiceError, match="another run is writing it"):
            run(*images, "--output", output, "--resume")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_what_is_done_and_says_how_to_resume(number, status, tmp_path):
    images, output = write_grains(tmp_path / "images", 3), tmp_path / "out.jsonl"
    with process("-", "--output", output, stdin=subprocess.PIPE) as child:
        child.stdin.write("".join(f"{file}\n" for file in images[:2]).encode())
        child.stdin.flush()
        wait_until(lambda: partial_of(output).exists() and partial_of(output).read_bytes().count(b"\n") == 3)
        child.send_signal(number)
        said = child.stderr.read().decode()
        assert child.wait(timeout=60) == status
    assert (
        f"stopped: the 2 records so far are in {partial_of(output)}; to continue, give the same command with --resume"
        in said
    )
    assert "Traceback" not in said
    assert run(*images, "--output", output, "--resume") == 0
    assert len(output.read_text().splitlines()) == 3


def test_stopped_before_the_first_record_nothing_is_left(tmp_path):
    output = tmp_path / "out.jsonl"
    with process("-", "--output", output, stdin=subprocess.PIPE) as child:
        wait_until(partial_of(output).exists)
        time.sleep(0.2)
        child.terminate()
        assert child.wait(timeout=60) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    (image,) = write_grains(tmp_path / "images", 1)

    def full(self, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rice_lib.predict.writers.Writer.as_dict", full)
    with pytest.raises(RiceError, match=r"out.jsonl.partial: cannot be written \(No space left on device\)"):
        run(image, "--output", tmp_path / "out.jsonl")


def test_a_model_is_known_by_its_content(tmp_path):
    for folder, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(text)
    a, b, c = (resume.model_identity(tmp_path / name) for name in "abc")
    assert a == b != c
    assert resume.model_identity(tmp_path / "a" / "config.json") != resume.model_identity(
        tmp_path / "c" / "config.json"
    )
    config = tmp_path / "a" / "config.json"
    assert resume.model_identity(f"openvino:{config}") == f"openvino:{resume.model_identity(config)}"
    assert resume.model_identity("triton://host:1/m") == "triton://host:1/m"


# --- parquet


def test_parquet_holds_what_json_lines_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "ROW_GROUP", 3)
    images = write_grains(tmp_path / "images", 7)
    images.append(tmp_path / os.fsdecode(b"latin-\xe9.png"))
    for form in ("parquet", "jsonl"):
        assert run(*images, "--output", tmp_path / f"out.{form}") == 1
    rows = read_parquet(tmp_path / "out.parquet")
    records = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert [row["path"] for row in rows] == [*map(str, images[:7]), f"{tmp_path}/latin-\\xe9.png"]
    for row, record in zip(rows[:7], records, strict=False):
        assert {name: row[name] for name in record["scores"]} == record["scores"]
        assert (row["label"], row["confidence"], row["error"]) == (record["label"], record["confidence"], None)
    assert (rows[7]["error"], rows[7]["label"], rows[7]["notes"]) == ("no such file", None, [])


def test_parquet_wants_a_file_and_pyarrow(tmp_path, monkeypatch):
    with pytest.raises(RiceError, match="name it with --output"):
        run(tmp_path, "--format", "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RiceError, match=r"pip install 'rice-lib\[bulk\]'"):
        run(tmp_path, "--output", tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == []
