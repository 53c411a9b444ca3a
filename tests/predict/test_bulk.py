"""Predictions in bulk: files that survive an interruption, flat memory, no work done twice, refusals."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models import tiny_onnx, write_grains

from rice_lib import infer
from rice_lib.common.errors import RiceError
from rice_lib.contract.prediction import UNKNOWN
from rice_lib.contract.record import Record
from rice_lib.predict import inputs, progress
from rice_lib.predict import resume as journal
from rice_lib.predict.inputs import Memory, count, decode_all, expand

AWKWARD = ["new\nline.png", 'quo"te,\r.png', "süß.png", os.fsdecode(b"latin-\xe9.png")]


def write_small(folder: Path, number: int, seed: int = 0) -> list[Path]:
    """Different images, each of a few pixels, so that a test spends its time elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    files = [folder / f"{place:05}.png" for place in range(number)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    return files


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


# --- interrupted, and gone on with


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_killed_again_and_again_the_results_are_those_of_one_run(form, tmp_path):
    files = write_small(tmp_path / "images", 396)
    for name, file in zip(AWKWARD, files[50::90], strict=False):
        file.rename(file.with_name(name))
    (tmp_path / "images" / "broken.png").write_bytes(b"no")
    whole, output = tmp_path / f"whole.{form}", tmp_path / f"told.{form}"
    assert run(tmp_path / "images", "--output", whole) == 1
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
        assert read_parquet(output) == read_parquet(whole)
    else:
        assert output.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["images", whole.name, output.name])


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Seven images, of which an interrupted run told four."""
    images = write_grains(tmp_path / "images", 7)

    def start(output: Path, *arguments, told: int = 4) -> list[Path]:
        def four(names):
            yield from islice(expand(names), told)
            time.sleep(0.3)  # they are told by now
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(infer, "expand", four)
            with pytest.raises(KeyboardInterrupt):
                run(*images, "--output", output, *arguments)
        return images

    return start


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("lost", [1, 2, 30, 90])
def test_what_was_torn_is_told_again(form, lost, interrupted, tmp_path, capsys):
    output, whole = tmp_path / f"told.{form}", tmp_path / f"whole.{form}"
    images = interrupted(output)
    partial = partial_of(output)
    partial.write_bytes(partial.read_bytes()[:-lost])
    assert run(*images, "--output", output, "--resume") == run(*images, "--output", whole) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert "going on after the 3 results" in capsys.readouterr().err


def test_a_torn_header_is_written_again(interrupted, tmp_path):
    output, whole = tmp_path / "told.csv", tmp_path / "whole.csv"
    images = interrupted(output)
    partial_of(output).write_bytes(b"path,lab")
    assert run(*images, "--output", output, "--resume") == run(*images, "--output", whole) == 0
    assert output.read_bytes() == whole.read_bytes()


def test_earlier_failures_count_in_the_status(interrupted, tmp_path):
    output = tmp_path / "told.jsonl"
    images = interrupted(output)
    images[1].unlink()
    partial = partial_of(output)
    lines = partial.read_text().splitlines(keepends=True)
    lines[1] = json.dumps({"path": str(images[1]), "error": "no such file"}) + "\n"
    partial.write_text("".join(lines))
    assert run(*images, "--output", output, "--resume") == 1
    assert len(output.read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--top-k", 2], "was told with top-k 5, not 2"),
        (["--format", "csv"], "was told with format jsonl, not csv"),
        (["--model", "other"], "was told with another model"),
    ],
)
def test_a_run_on_other_terms_does_not_go_on(arguments, why, interrupted, tmp_path):
    output = tmp_path / "told.jsonl"
    images = interrupted(output)
    before = partial_of(output).read_bytes()
    line = [*images, "--output", output, "--resume", "--model", tiny_onnx(), "--no-reject", *arguments]
    if "other" in line:
        line[line.index("other")] = tiny_onnx(False)
    with pytest.raises(RiceError, match=why):
        infer.main(list(map(str, line)))
    with pytest.raises(RiceError, match="refusal False, not True"):
        infer.main([*map(str, images), "--output", str(output), "--resume", "--model", str(tiny_onnx())])
    assert partial_of(output).read_bytes() == before


def test_other_inputs_do_not_go_on(interrupted, tmp_path):
    output = tmp_path / "told.jsonl"
    images = interrupted(output)
    before = partial_of(output).read_bytes()
    for now, why in (
        ([images[0], images[2], *images[2:]], r"record 2 is of .*\(1\).*input 2 is now .*\(2\)"),
        (images[:3], r"record 4 is of .*\(3\).*the inputs now end before it"),
    ):
        with pytest.raises(RiceError, match=why):
            run(*now, "--output", output, "--resume")
        assert partial_of(output).read_bytes() == before


def test_terms_that_are_gone_and_records_that_are_damaged_are_said(interrupted, tmp_path):
    output = tmp_path / "told.jsonl"
    images = interrupted(output)
    partial = partial_of(output)
    partial.write_text("nonsense\n" + partial.read_text())
    with pytest.raises(RiceError, match="record 1 cannot be read"):
        run(*images, "--output", output, "--resume")
    partial.with_name("told.jsonl.partial.json").unlink()
    with pytest.raises(RiceError, match=r"told.jsonl.partial.json beside it is missing"):
        run(*images, "--output", output, "--resume")


def test_resume_with_nothing_to_resume_begins_and_with_a_whole_output_ends(tmp_path, capsys):
    images, output = write_grains(tmp_path / "images", 2), tmp_path / "told.csv"
    assert run(*images, "--output", output, "--resume") == 0
    before = output.stat()
    assert run(*images, "--output", output, "--resume", "--model", "none.onnx") == 0
    assert output.stat().st_mtime_ns == before.st_mtime_ns
    assert "already whole" in capsys.readouterr().err


def test_two_runs_do_not_write_one_file(interrupted, tmp_path):
    import fcntl

    output = tmp_path / "told.jsonl"
    images = interrupted(output)
    with partial_of(output).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RiceError, match="another run is writing it"):
            run(*images, "--output", output, "--resume")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_what_is_done_and_says_how_to_go_on(number, status, tmp_path):
    images, output = write_grains(tmp_path / "images", 3), tmp_path / "told.jsonl"
    with process("-", "--output", output, stdin=subprocess.PIPE) as child:
        child.stdin.write("".join(f"{file}\n" for file in images[:2]).encode())
        child.stdin.flush()
        wait_until(lambda: partial_of(output).exists() and partial_of(output).read_bytes().count(b"\n") == 2)
        child.send_signal(number)
        said = child.stderr.read().decode()
        assert child.wait(timeout=60) == status
    assert (
        f"stopped: the 2 results so far are in {partial_of(output)}; to go on, give the same command with --resume"
        in said
    )
    assert "Traceback" not in said
    assert run(*images, "--output", output, "--resume") == 0
    assert len(output.read_text().splitlines()) == 3


def test_stopped_before_the_first_result_nothing_is_left(tmp_path):
    output = tmp_path / "told.jsonl"
    with process("-", "--output", output, stdin=subprocess.PIPE) as child:
        wait_until(partial_of(output).exists)
        time.sleep(0.2)
        child.terminate()
        assert child.wait(timeout=60) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    (image,) = write_grains(tmp_path / "images", 1)

    def full(self, result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rice_lib.contract.record.Writer.write", full)
    with pytest.raises(RiceError, match=r"told.jsonl.partial: cannot be written \(No space left on device\)"):
        run(image, "--output", tmp_path / "told.jsonl")


def test_a_model_is_known_by_its_content(tmp_path):
    for folder, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(text)
    a, b, c = (journal.model_identity(tmp_path / name) for name in "abc")
    assert a == b != c
    assert journal.model_identity(tmp_path / "a" / "config.json") != journal.model_identity(
        tmp_path / "c" / "config.json"
    )
    assert journal.model_identity("triton://host:1/m") == "triton://host:1/m"


# --- parquet


def test_parquet_holds_what_json_lines_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "ROW_GROUP", 3)
    images = write_grains(tmp_path / "images", 7)
    images.append(tmp_path / os.fsdecode(b"latin-\xe9.png"))
    for form in ("parquet", "jsonl"):
        assert run(*images, "--output", tmp_path / f"told.{form}") == 1
    rows = read_parquet(tmp_path / "told.parquet")
    records = list(map(json.loads, (tmp_path / "told.jsonl").read_text().splitlines()))
    assert [row["path"] for row in rows] == [*map(str, images[:7]), f"{tmp_path}/latin-\\xe9.png"]
    for row, record in zip(rows[:7], records, strict=False):
        assert {name: row[name] for name in record["scores"]} == record["scores"]
        assert (row["label"], row["confidence"], row["error"]) == (record["label"], record["confidence"], None)
    assert (rows[7]["error"], rows[7]["label"], rows[7]["notes"]) == ("no such file", None, [])


def test_parquet_wants_a_file_and_pyarrow(tmp_path, monkeypatch):
    with pytest.raises(RiceError, match="name it with --output"):
        run(tmp_path, "--format", "parquet")
    with pytest.raises(RiceError, match="needs an ordinary file"):
        run(tmp_path, "--format", "parquet", "--output", os.devnull)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RiceError, match=r"pip install 'rice-lib\[bulk\]'"):
        run(tmp_path, "--output", tmp_path / "told.parquet")
    assert list(tmp_path.iterdir()) == []


# --- no work done twice


class Model:
    """Counts what it is asked; tells an image by its first pixel."""

    name, labels, max_batch, decision = "fake", ("dark", "light"), 256, None

    def __init__(self, decision=None):
        self.asked = 0
        self.decision = decision

    def logits(self, pixels):
        self.asked += len(pixels)
        light = pixels[:, 112, 112, 0].astype(np.float32)
        return np.stack([127.5 - light, light - 127.5], axis=1) / 100

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def tell(model, files, memory, batch_size=4, reject=True):
    decoded = decode_all(expand(map(str, files)), batch_size, memory=memory)
    return list(infer.predict(model, decoded, batch_size, reject, memory))


def test_files_of_the_same_bytes_are_decoded_and_told_once(tmp_path, monkeypatch):
    different = write_grains(tmp_path / "images", 5)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "images" / "two.gif", save_all=True, append_images=frames[1:])
    broken = tmp_path / "images" / "broken.png"
    broken.write_bytes(b"no image")
    different += [tmp_path / "images" / "two.gif", broken]
    files = []
    for turn in range(20):  # copies near each other, and far apart
        for file in different:
            files.append(tmp_path / f"{turn:02} {file.name}")
            files[-1].write_bytes(file.read_bytes())
    files = sorted(files, key=lambda file: (file.name[0] == "0", file.name))
    decoded = []
    decode = inputs.decode_with_notes
    monkeypatch.setattr(inputs, "decode_with_notes", lambda data: decoded.append(data) or decode(data))
    model = Model()
    results = tell(model, files, Memory())
    assert model.asked == 6
    assert len(decoded) == 7
    assert [result.path for result in results] == list(map(str, files))
    alone = {file.name: tell(Model(), [file], None)[0] for file in different}
    for result in results:
        expected = alone[Path(result.path).name[3:]]
        assert (result.scores, result.notes, result.error) == (expected.scores, expected.notes, expected.error)
    assert {result.notes for result in results if result.path.endswith("gif")} == {("first of 2 frames",)}


def test_the_command_tells_copies_once_and_resumed_runs_too(tmp_path, monkeypatch):
    files = []
    for turn in range(4):
        files += write_grains(tmp_path / str(turn), 3)
    model = Model()
    monkeypatch.setattr("rice_lib.backends.predictor.open_predictor", lambda *_: model)
    assert run(tmp_path, "--output", tmp_path / "told.jsonl") == 0
    assert model.asked == 3
    lines = (tmp_path / "told.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 12
    assert len({json.dumps({**json.loads(line), "path": ""}) for line in lines}) == 3


def test_memory_keeps_the_latest_alone():
    memory = Memory(size=3)
    results = [Record(str(number)) for number in range(5)]
    digests = [memory.decode("x", b"%d" % number, lambda: inputs.DecodedInput("x")).digest for number in range(5)]
    for digest, result in zip(digests, results, strict=True):
        memory.keep(digest, result)
        memory.recall(digests[1])  # asked for, it stays
    kept = [memory.recall(digest) for digest in digests]
    assert [result.path for result in kept if result] == ["1", "3", "4"]
    assert not memory._decoding


def test_a_copy_waits_for_the_first_of_its_kind_and_shares_its_failure():
    memory, begun, go = Memory(), threading.Event(), threading.Event()

    def slowly():
        begun.set()
        go.wait(10)
        raise RuntimeError("a fault of ours")

    caught = []

    def ask(decode):
        try:
            memory.decode("x", b"same", decode)
        except RuntimeError as error:
            caught.append(str(error))

    first = threading.Thread(target=ask, args=[slowly])
    first.start()
    begun.wait(10)
    second = threading.Thread(target=ask, args=[lambda: pytest.fail("decoded twice")])
    second.start()
    go.set()
    first.join(10)
    second.join(10)
    assert caught == ["a fault of ours"] * 2


def test_inputs_that_need_no_model_do_not_pile_up():
    model, given = Model(), 0
    pixels = np.zeros((224, 224, 3), np.uint8)

    def endless():
        nonlocal given
        yield inputs.DecodedInput("good", pixels)
        while True:
            given += 1
            yield inputs.DecodedInput("bad", error="why")

    told = infer.predict(model, endless(), batch_size=4)
    assert next(told).path == "good"
    assert given < infer.WAITING_BATCHES * 4


# --- refusal


class Rule:
    """Refuses what is dark in the middle; halves the logits."""

    def __init__(self):
        self.measured_in = set()

    def measure(self, pixels):
        self.measured_in.add(threading.current_thread().name)
        return pixels[112, 112, :1].astype(np.float32)

    def probabilities(self, logits):
        shifted = np.exp(logits.astype(np.float64) / 2)
        return shifted / shifted.sum(axis=-1, keepdims=True)

    def reasons(self, logits, features):
        assert features.shape == (len(logits), 1)
        return ["not a single grain (dark)" if dark else None for dark in features[:, 0] < 100]


@pytest.fixture
def dark_and_light(tmp_path):
    files = [tmp_path / "dark.png", tmp_path / "light.png"]
    for file, level in zip(files, (20, 220), strict=True):
        Image.new("RGB", (224, 224), (level,) * 3).save(file)
    return files


def test_what_the_rule_refuses_is_unknown_with_the_reason(dark_and_light, monkeypatch, capsys):
    model = Model(Rule())
    monkeypatch.setattr("rice_lib.backends.predictor.open_predictor", lambda *_: model)
    arguments = [*map(str, dark_and_light), "--model", "x", "--format", "jsonl"]
    assert infer.main(arguments) == 0
    dark, light = map(json.loads, capsys.readouterr().out.splitlines())
    assert (dark["label"], dark["confidence"], dark["reason"]) == (UNKNOWN, None, "not a single grain (dark)")
    assert (light["label"], "reason" in light) == ("light", False)
    expected = 1 / (1 + np.exp(-2 * (220 - 127.5) / 100 / 2))
    assert light["confidence"] == pytest.approx(expected, abs=1e-6)
    assert all(name.startswith("decode") for name in model.decision.measured_in)
    model.decision.measured_in.clear()
    assert infer.main([*arguments, "--no-reject"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["label"] for record in told] == ["dark", "light"]
    assert told[1]["confidence"] == light["confidence"]
    assert not model.decision.measured_in


def test_inputs_decoded_without_measures_are_measured_when_told():
    pixels = np.full((224, 224, 3), 20, np.uint8)
    (result,) = infer.predict(Model(Rule()), [inputs.DecodedInput("x", pixels)])
    assert result.label == UNKNOWN


def test_a_model_without_a_rule_is_said_once_unless_none_is_wanted(dark_and_light, monkeypatch, capsys):
    monkeypatch.setattr("rice_lib.backends.predictor.open_predictor", lambda *_: Model())
    assert infer.main([*map(str, dark_and_light), "--model", "x"]) == 0
    assert capsys.readouterr().err == "note: x carries no rule for refusing images; every one is told a variety\n"
    assert infer.main([*map(str, dark_and_light), "--model", "x", "--no-reject"]) == 0
    assert capsys.readouterr().err == ""


# --- memory and progress


def test_memory_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch):
    (file,) = write_small(tmp_path, 1)
    # how far the decoders run ahead differs from run to run: images of 150 kB would drown what each file leaves
    monkeypatch.setattr(inputs, "decode_with_notes", lambda _: (np.broadcast_to(np.uint8(20), (224, 224, 3)), ()))

    def peak(number: int) -> int:
        names = (str(file) for _ in range(number))
        tracemalloc.start()
        told = sum(1 for _ in infer.tell_all(Model(), expand(names), 8, reject=True, remember=False))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert told == number
        return used

    peak(100)  # what the first run alone allocates
    few, many = peak(400), peak(4400)
    # the smallest thing that could be kept for each file, its result, has some 500 bytes
    assert many - few < 4000 * 100, (few, many)


def test_folders_are_walked_as_they_are_needed(tmp_path):
    for folder in "abc":
        write_small(tmp_path / folder, 2)
    found = expand([str(tmp_path)])
    assert Path(next(found)).parent.name == "a"
    (tmp_path / "b" / "late.png").write_bytes(b"")
    assert sum(1 for _ in found) == 6


def test_the_count_ahead_is_what_is_walked(tmp_path):
    write_small(tmp_path / "tree" / "deep" / "er", 3)
    write_small(tmp_path / "tree" / ".hidden", 3)
    write_small(tmp_path / "tree", 2)
    (tmp_path / "tree" / "notes.txt").touch()
    (tmp_path / "tree" / "circle").symlink_to(tmp_path / "tree")
    os.mkfifo(tmp_path / "tree" / "pipe.png")
    (tmp_path / "none").mkdir()
    names = [str(tmp_path / "tree"), str(tmp_path / "none"), "no.png", str(tmp_path / "tree" / "00000.png")]
    assert sum(count(names)) == sum(1 for _ in expand(names)) == 5 + 1 + 1 + 1


@pytest.mark.parametrize("listed", ["folder", "file", "pipe"])
def test_progress_says_count_rate_and_time_left(listed, tmp_path, monkeypatch, capsys):
    files = write_small(tmp_path / "images", 40)
    monkeypatch.setattr(progress, "AFTER_S", 0)
    model = Model()
    answer = model.logits

    def slowly(pixels):
        time.sleep(0.02)
        return answer(pixels)

    model.logits = slowly
    monkeypatch.setattr("rice_lib.backends.predictor.open_predictor", lambda *_: model)
    names = b"".join(os.fsencode(file) + b"\n" for file in files)
    if listed == "folder":
        assert run(tmp_path / "images", "--output", tmp_path / "told.jsonl", "--batch-size", 1) == 0
    else:
        (tmp_path / "list").write_bytes(names)
        if listed == "file":
            descriptor = os.open(tmp_path / "list", os.O_RDONLY)
        else:
            descriptor, writer = os.pipe()
            os.write(writer, names)
            os.close(writer)
        with os.fdopen(descriptor) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert run("-", "--output", tmp_path / "told.jsonl", "--batch-size", 1) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert "images/s" in last
    assert ("40/40 [" in last) == (listed != "pipe")
    assert "40" in last


def test_an_interrupted_runs_results_are_in_the_count_but_not_in_the_rate(monkeypatch, capsys):
    monkeypatch.setattr(progress, "AFTER_S", 0)
    bar = progress.Progress(True, iter([1000]), done=990)
    for _ in range(10):
        bar.step(1)
        time.sleep(0.02)
    bar.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "1000/1000" in last
    assert "1 failed" in last
    rate = float(last.split(" images/s")[0].rsplit(" ", 1)[-1])
    assert rate < 100


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--mm-per-pixel", "0.1"], "it needs --grains"),
        (["--reference-mm", "20"], "it needs --grains"),
        (["--grains", "--mm-per-pixel", "0.1", "--reference-mm", "20"], "does not go with --reference-mm"),
        (["--explain", "maps", "--grains"], "--explain does not go with --grains"),
        (["--resume", "--output", "o.csv", "--grains"], "--resume does not go with --grains"),
        (["--resume", "--output", "o.csv", "--explain", "maps"], "--resume does not go with --explain"),
        (["--engine", "ray", "--grains"], "--engine ray does not go with --grains"),
        (["--engine", "ray", "--explain", "maps"], "--engine ray does not go with --explain"),
        (["--resume"], "name the file"),
    ],
)
def test_options_that_mean_nothing_together_are_one_line(arguments, why):
    with pytest.raises(RiceError, match=why) as caught:
        infer.main(["x.jpg", *arguments])
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "module"), [(["--grains"], "rice_lib.cli.tray"), (["--explain", "maps"], "rice_lib.cli.explain")]
)
def test_trays_and_explanations_are_commands_of_their_own(arguments, module, monkeypatch):
    asked = []
    monkeypatch.setattr(f"{module}.run", lambda given: asked.append(given) or 7)
    assert infer.main(["tray.jpg", *arguments, "--no-reject"]) == 7
    assert (asked[0].inputs, asked[0].reject) == (["tray.jpg"], False)


@pytest.mark.parametrize("prog", ["rice infer", infer.PROG])
def test_the_help_fits_one_screen(prog):
    lines = infer.parser(prog).format_help().splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_stdout_is_data_alone(form, tmp_path):
    images = write_grains(tmp_path, 2)
    line = [sys.executable, "-m", "rice_lib.infer", *map(str, images), "none.png", "--model", str(tiny_onnx())]
    done = subprocess.run([*line, "--format", form], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "carries no rule" in done.stderr
    if form == "jsonl":
        paths = [json.loads(text)["path"] for text in done.stdout.splitlines()]
    else:
        paths = [row["path"] for row in csv.DictReader(io.StringIO(done.stdout))]
    assert paths == [*map(str, images), "none.png"]
