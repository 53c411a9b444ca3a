"""Files to records: batches, rejections, flat memory, progress."""

import os
import re
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.images import write_small

from rice_lib import infer
from rice_lib.backends.predictor import Predictor
from rice_lib.common.machine import cores
from rice_lib.contract import prediction
from rice_lib.contract.decision import Decision
from rice_lib.contract.prediction import UNKNOWN
from rice_lib.contract.record import Record
from rice_lib.predict import inputs, pipeline
from rice_lib.predict.inputs import DecodedInput, decode_all, expand, read_list
from rice_lib.predict.pipeline import predict_files, with_progress


class Model(Predictor):
    """Counts what it is asked; classifies an image by the pixel in its middle."""

    def __init__(self, decision=None):
        self.name, self.labels, self.max_batch = "fake", ("dark", "light"), 256
        self.batches = []
        self.decision = decision or Decision()

    def _forward(self, pixels):
        self.batches.append(len(pixels))
        light = pixels[:, 112, 112, 0].astype(np.float32)
        return np.stack([127.5 - light, light - 127.5], axis=1) / 100


class Rule:
    """Rejects what is dark all over."""

    def reasons(self, logits, features):
        return ["not a single grain (dark)" if area < 0.5 else None for area in features[:, 1]]


@pytest.fixture
def opens(monkeypatch):
    """Have the command open this model."""

    def use(model):
        monkeypatch.setattr(infer, "open_predictor", lambda *_: model)
        return model

    return use


def records_of(items, batch_size, model=None):
    model = model or Model()
    batches = pipeline._batches(items, batch_size)
    return [record for batch in batches for record in pipeline.predict_batch(model, batch)]


def test_a_batch_is_predicted_when_it_is_full_or_the_next_image_is_late():
    good, bad = DecodedInput("good", np.zeros((224, 224, 3), np.uint8)), DecodedInput("bad", error="why")
    model = Model()
    records = records_of([good, bad, good, good, None, None, bad, good, None, good], 2, model)
    assert [record.path for record in records] == ["good", "bad", "good", "good", "bad", "good", "good"]
    assert model.batches == [2, 1, 1, 1]


def test_files_are_decoded_at_most_a_batch_ahead(tmp_path):
    files, asked = write_small(tmp_path, 7), []

    def names():
        for number in range(100):
            asked.append(number)
            yield str(files[number % 7])

    decoded = decode_all(names(), batch_size=3)
    next(item for item in decoded if item is not None)
    time.sleep(0.3)
    assert len(asked) <= 3 + 3 + cores()
    decoded.close()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_made_on_windows_is_read(encoding, end, tmp_path):
    odd = tmp_path / "ends in a return\r"
    odd.touch()
    names = ["süß.jpg", "emoji \U0001f33e.jpg", *([] if end == "\r\n" else [str(odd)])]
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    data = (mark + end.join([*names, "", "last.jpg"])).encode(encoding)
    reader, writer = os.pipe()

    def write() -> None:
        for cut in range(0, len(data), 7):  # characters come in pieces
            os.write(writer, data[cut : cut + 7])
        os.close(writer)

    threading.Thread(target=write).start()
    found = [os.fsdecode(name) for name in read_list(reader)]
    os.close(reader)
    assert found == [*names, "last.jpg"]


def test_read_list_puts_names_together_across_reads():
    reader, writer = os.pipe()
    os.write(writer, b"one\ntw")
    names = read_list(reader)
    assert next(names) == b"one"
    os.write(writer, b"o\n\nthree")
    os.close(writer)
    assert list(names) == [b"two", b"three"]
    os.close(reader)


# --- rejection


@pytest.fixture
def dark_and_light(tmp_path):
    files = [tmp_path / "dark.png", tmp_path / "light.png"]
    for file, level in zip(files, (20, 220), strict=True):
        Image.new("RGB", (224, 224), (level,) * 3).save(file)
    return [str(file) for file in files]


def test_a_rejected_image_is_unknown_with_the_reason(dark_and_light):
    model = Model(Decision(temperature=2.0, rejection=Rule()))
    dark, light = predict_files(model, dark_and_light)
    assert (dark.label, dark.prediction.confidence, dark.reason) == (UNKNOWN, None, "not a single grain (dark)")
    assert (light.label, light.reason) == ("light", None)
    assert light.prediction.confidence == pytest.approx(1 / (1 + np.exp(-2 * (220 - 127.5) / 100 / 2)), abs=1e-6)
    accepted = list(predict_files(model, dark_and_light, reject=False))
    assert [record.label for record in accepted] == ["dark", "light"]
    assert accepted[1] == light


def test_features_are_computed_only_for_a_rule(dark_and_light, monkeypatch):
    computed, extract = [], prediction.extract_features
    monkeypatch.setattr(prediction, "extract_features", lambda pixels: computed.append(1) or extract(pixels))
    list(predict_files(Model(Decision(rejection=Rule())), dark_and_light, reject=False))
    list(predict_files(Model(), dark_and_light))
    assert not computed
    list(predict_files(Model(Decision(rejection=Rule())), dark_and_light))
    assert len(computed) == 2


@pytest.mark.parametrize("decision", [None, Decision(temperature=2.0)])
def test_a_model_without_a_rule_is_said_once_unless_none_is_wanted(decision, dark_and_light, opens, capsys):
    opens(Model(decision))
    assert infer.main([*dark_and_light, "--model", "x"]) == 0
    assert capsys.readouterr().err == "note: x carries no rejection rule; every image is given a variety\n"
    assert infer.main([*dark_and_light, "--model", "x", "--no-reject"]) == 0
    assert capsys.readouterr().err == ""


# --- memory and progress


def test_memory_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch):
    (file,) = write_small(tmp_path, 1)
    # how far the decoders run ahead differs from run to run: images of 150 kB would drown what each file leaves
    monkeypatch.setattr(inputs, "decode_with_notes", lambda _: (np.broadcast_to(np.uint8(20), (224, 224, 3)), ()))

    def peak(number: int) -> int:
        tracemalloc.start()
        count = sum(1 for _ in predict_files(Model(), expand(str(file) for _ in range(number)), 8))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == number
        return used

    peak(100)  # what the first run alone allocates
    few, many = peak(400), peak(4400)
    # the smallest thing that could be kept for each file, its record, has some 500 bytes
    assert many - few < 4000 * 100, (few, many)


def test_folders_are_walked_as_they_are_needed(tmp_path):
    for folder in "abc":
        write_small(tmp_path / folder, 2)
    found = expand([str(tmp_path)])
    assert Path(next(found)).parent.name == "a"
    (tmp_path / "b" / "late.png").write_bytes(b"")
    assert sum(1 for _ in found) == 6


@pytest.mark.parametrize("listed", [False, True])
def test_progress_shows_count_rate_and_where_it_can_the_total(listed, tmp_path, monkeypatch, capsys, opens):
    monkeypatch.setattr(pipeline, "PROGRESS_AFTER_S", 0)
    files, model = write_small(tmp_path / "images", 40), opens(Model())
    forward = model._forward
    model._forward = lambda pixels: time.sleep(0.01) or forward(pixels)
    arguments = ["--output", str(tmp_path / "out.jsonl"), "--batch-size", "1", "--no-reject", "--model", "x"]
    if listed:
        (tmp_path / "list").write_bytes(b"".join(os.fsencode(file) + b"\n" for file in files))
        with (tmp_path / "list").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert infer.main(["-", *arguments]) == 0
    else:
        assert infer.main([str(tmp_path / "images"), *arguments]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert "images/s" in last
    assert ("40/40 [" in last) == (not listed)
    assert "40" in last


def test_an_interrupted_runs_records_are_in_the_count_but_not_in_the_rate(monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "PROGRESS_AFTER_S", 0)

    def slowly():
        for _ in range(10):
            time.sleep(0.02)
            yield Record("x", error="no such file")

    assert sum(1 for _ in with_progress(slowly(), map(str, range(1000)), done=990)) == 10
    last = re.split("[\r\n]", capsys.readouterr().err.strip())[-1]
    assert "1000/1000" in last
    assert float(last.split(" images/s")[0].rsplit(" ", 1)[-1]) < 100
