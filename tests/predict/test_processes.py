"""Bulk prediction by several processes: the same records in the same order, and what happens when one is killed."""

import itertools
import multiprocessing
import os
import signal
import time

import pytest
from support.models import tiny_onnx, write_grains

from rice_lib.backends.onnx import OnnxPredictor
from rice_lib.common.errors import RiceError
from rice_lib.predict import pipeline, processes
from rice_lib.predict.inputs import Unreadable


@pytest.fixture
def predictor(monkeypatch):
    monkeypatch.setattr(processes, "FEW", 3)
    with OnnxPredictor(tiny_onnx(), threads=2) as opened:
        assert opened.processes == 2
        yield opened


def test_records_are_those_of_one_process_in_the_same_order(predictor, tmp_path):
    files = [str(file) for file in write_grains(tmp_path, 5)]
    sources = [*files, "none.png", Unreadable("empty", "why"), *(files * 8)]
    expected = list(pipeline.predict_files(predictor, iter(sources), 8))
    assert list(processes.predict_files(predictor, tiny_onnx(), iter(sources), 8, reject=True)) == expected
    assert not multiprocessing.active_children()


def test_few_inputs_start_no_process(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: pytest.fail("a process is started"))
    sources = map(str, write_grains(tmp_path, 3))
    assert len(list(processes.predict_files(predictor, tiny_onnx(), sources, 8, reject=True))) == 3


def test_records_of_a_slow_list_do_not_wait_for_its_end(predictor, tmp_path):
    (file,) = map(str, write_grains(tmp_path, 1))
    waits = iter([])

    def names():
        nonlocal waits
        yield from itertools.repeat(file, 5)
        waits = itertools.count()
        while next(waits) < 600:  # a minute: until the records of the five are taken
            time.sleep(0.1)
        yield file

    records = processes.predict_files(predictor, tiny_onnx(), names(), 8, reject=True)
    assert [record.error for record in itertools.islice(records, 5)] == [None] * 5
    assert next(waits) < 600
    records.close()


def test_a_killed_process_is_an_error_of_one_line(predictor, tmp_path):
    (file,) = map(str, write_grains(tmp_path, 1))
    records = processes.predict_files(predictor, tiny_onnx(), itertools.repeat(file), 8, reject=True)
    for _ in itertools.islice(records, 40):
        pass
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(RiceError, match=r"was killed .*--threads 1"):
        list(records)
    assert not multiprocessing.active_children()
