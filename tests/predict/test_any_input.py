"""The prediction command over every kind of file there is: none stops it, each gets a record of what came of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from support.corpus import Case, drawn, encoded, foreign_files, png, write_corpus
from support.models import tiny_onnx

LIMIT_S = 120
"""The whole corpus takes a few seconds of one core; the machine may be busy."""

MEMORY_MB = 500
"""Peak resident memory over the corpus. Python, numpy, Pillow and ONNX Runtime take about 130 MB, eight batches of
decoded pixels 40 MB, the largest good image (3 megapixels) 30 MB in each of four threads. What is rejected must not
show: the bombs would decode to 3.6 GB (30,000 x 30,000), 40 GB (100,000 x 10, padded) and 17 GB (JPEG, TIFF, GIF)."""


@dataclass(frozen=True)
class Run:
    """What the command did."""

    status: int
    records: list[dict[str, object]]
    stderr: str
    seconds: float
    peak_mb: float


WATCHER = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[2:], check=False).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
open(sys.argv[1], "w").write(json.dumps([status, peak]))
"""
"""Runs a command and notes its peak memory (MB): the tests' own children would be counted together."""


def infer(place: Path, *names: str, listed: bytes | None = None) -> Run:
    """The command in a process of its own; `place` is a folder for what is noted of it."""
    line = [sys.executable, "-m", "rice_lib.infer", "--model", str(tiny_onnx()), "--format", "jsonl", "--no-reject"]
    noted = place / "noted.json"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WATCHER, str(noted), *line, *names],
        input=listed,
        capture_output=True,
        timeout=LIMIT_S,
        check=True,
    )
    seconds = time.monotonic() - begun
    status, peak = json.loads(noted.read_text())
    return Run(status, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode(), seconds, peak)


def faults(cases: list[Case], run: Run) -> list[str]:
    """What is not as it should be, one line a file."""
    assert [record["path"] for record in run.records] == [case.path for case in cases]
    wrong = []
    for case, record in zip(cases, run.records, strict=True):
        error = record.get("error")
        if case.error is None:
            good = error is None and "label" in record and tuple(record.get("notes", ())) == case.notes
        else:
            good = isinstance(error, str) and re.search(case.error, error) and "\n" not in error
        if not good:
            wrong.append(f"{case.path!r}: expected {case.error or case.notes}, got {error or record.get('notes')}")
    return wrong


def test_every_kind_of_file_is_predicted_or_failed_for_its_reason(tmp_path):
    cases = write_corpus(tmp_path / "corpus")
    run = infer(tmp_path, "-", "--null", listed=b"\0".join(os.fsencode(case.path) for case in cases) + b"\0")
    assert faults(cases, run) == []
    assert run.status == 1
    assert run.stderr == ""
    assert run.peak_mb < MEMORY_MB
    print(
        f"{len(cases)} files, {sum(c.error is not None for c in cases)} bad: {run.seconds:.1f} s, {run.peak_mb:.0f} MB"
    )


def test_files_named_on_the_command_line(tmp_path):
    cases = [case for case in write_corpus(tmp_path / "corpus") if "\n" not in case.path][:40]
    run = infer(tmp_path, "--", *(case.path for case in cases))
    assert faults(cases, run) == []
    assert run.stderr == ""


def test_a_folder_that_leads_back_to_itself_ends(tmp_path):
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    grain = encoded(Image.fromarray(drawn(250, 250)), "JPEG")
    for place in (folder / "a.jpg", folder / "inner" / "b.jpg"):
        place.write_bytes(grain)
    (folder / "inner" / "again").symlink_to(folder)
    (folder / "inner" / "self").symlink_to("self")
    (folder / "inner" / "self.jpg").symlink_to("self.jpg")
    run = infer(tmp_path, str(folder))
    cases = [
        Case(str(folder / "a.jpg")),
        Case(str(folder / "inner" / "b.jpg")),
        Case(str(folder / "inner" / "self.jpg"), r"^cannot be read \(too many levels of symbolic links\)$"),
    ]
    assert faults(cases, run) == []
    assert run.status == 1
    assert run.stderr == ""


def test_a_pipe_that_nobody_writes_to_holds_nothing_up(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").write_bytes(encoded(Image.fromarray(drawn(250, 250)), "JPEG"))
    names = [str(tmp_path / "pipe.jpg"), "/dev/zero", "/dev/tty", str(tmp_path / "a.jpg")]
    run = infer(tmp_path, *names)
    assert [record.get("error") for record in run.records] == [
        "is a named pipe, not a file",
        "is a device, not a file",
        "is a device, not a file",
        None,
    ]
    assert run.stderr == ""


def test_a_file_that_vanishes_while_the_list_is_read(tmp_path):
    grain = encoded(Image.fromarray(drawn(250, 250)), "JPEG")
    first, second = tmp_path / "1.jpg", tmp_path / "2.jpg"
    for file in (first, second):
        file.write_bytes(grain)
    line = [sys.executable, "-m", "rice_lib.infer", "--model", str(tiny_onnx()), "--format", "jsonl", "-"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{first}\n".encode())
        process.stdin.flush()
        assert "label" in json.loads(process.stdout.readline())
        second.unlink()
        process.stdin.write(f"{second}\n".encode())
        process.stdin.close()
        assert json.loads(process.stdout.readline()) == {"path": str(second), "error": "no such file"}
        assert process.wait(timeout=60) == 1


def test_large_images_are_not_held_by_every_thread(tmp_path):
    # 24 megapixels, 96 MB each as Pillow holds them; eight files, four threads
    rows = (b"\0" + bytes(6000)) * 4000
    large = png(6000, 4000, 8, 0, rows)
    cases = []
    for number in range(8):
        file = tmp_path / f"{number}.png"
        # not one the same as another: equal files are decoded once
        file.write_bytes(large + bytes([number]))
        cases.append(Case(str(file)))
    run = infer(tmp_path, *(case.path for case in cases))
    assert faults(cases, run) == []
    print(f"8 images of 24 megapixels: {run.seconds:.1f} s, {run.peak_mb:.0f} MB")
    # one takes 24 MB as grey and 96 MB as RGB; four at once would be half a gigabyte above what is always there
    assert run.peak_mb < 400


@pytest.mark.slow
def test_a_thousand_bad_ones_among_good_ones(tmp_path):
    bad = list(foreign_files().values())
    cases = []
    for number in range(2000):
        file = tmp_path / f"{number:04}.jpg"
        if number % 2:
            data, reason = bad[number // 2 % len(bad)]
            file.write_bytes(data)
            cases.append(Case(str(file), reason))
        else:
            file.write_bytes(encoded(Image.fromarray(drawn(100 + number % 90, 100)), "JPEG", quality=60 + number % 40))
            cases.append(Case(str(file)))
    run = infer(tmp_path, "-", listed="\n".join(case.path for case in cases).encode())
    assert faults(cases, run) == []
    assert run.status == 1
    assert "Traceback" not in run.stderr
    assert run.peak_mb < MEMORY_MB
    print(f"2000 files, 1000 bad: {run.seconds:.1f} s, {run.peak_mb:.0f} MB")
