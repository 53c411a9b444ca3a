"""`rice demo`: what the page answers, and the page itself in a real browser at two widths."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from support.browser import chromium
from support.models import tiny_onnx, write_grains
from support.trays import BySize, Setting, compose, synthetic_grains

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.cli.demo import answer_grain, answer_tray, as_html
from rice_lib.contract.decode import BadImageError
from rice_lib.data.synthetic import VARIETIES

COUNT = 8


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("demo") / "tray <1>.jpg"
    Image.fromarray(compose(synthetic_grains(COUNT), Setting(shape=(650, 850)), 3).image).save(file)
    return file


def test_a_tray_is_answered_as_the_command_answers_it(photograph):
    answer = answer_tray(BySize(), photograph, mm_per_pixel=0.05)
    assert answer.table.startswith(f"tray <1>.jpg: {COUNT} grains classified")
    rows = list(csv.DictReader(io.StringIO(answer.csv)))
    assert len(rows) == COUNT
    assert {row["path"] for row in rows} == {"tray <1>.jpg"}
    assert all(float(row["length_mm"]) > 0 for row in rows)
    assert answer.picture.width >= 850


def test_a_remark_stays_whole_on_a_narrow_page_and_no_text_changes(photograph):
    table = answer_tray(BySize(), photograph, mm_per_pixel=0.05).table
    html = as_html(table)
    lines = html.replace("<span style='display: block", "\n<").split("\n")[1:]
    assert [unescape(re.sub("<[^>]*>", "", line)) for line in lines] == table.splitlines()
    remarks = re.findall("inline-block[^>]*>([^<]*)</span>", html)
    assert "of the mass, estimated as area x width" in remarks
    assert not any("  " in remark for remark in remarks)


def test_a_grain_is_answered_with_what_decides(tmp_path):
    (file,) = write_grains(tmp_path, 1)
    with open_predictor(tiny_onnx()) as predictor:
        answer = answer_grain(predictor, file)
    (row,) = csv.DictReader(io.StringIO(answer.csv))
    assert row["path"] == file.name
    assert row["label"] in VARIETIES
    lines = answer.table.splitlines()  # a line a variety, the likeliest first
    assert lines[0].startswith(row["label"])
    assert sorted(line.split()[0] for line in lines) == sorted(VARIETIES)
    assert answer.picture.width > 224


def test_a_rejected_grain_is_answered_with_the_reason(tmp_path):
    Image.new("RGB", (300, 300), "white").save(tmp_path / "white.png")
    with open_predictor(default_model()) as predictor:
        table = answer_grain(predictor, tmp_path / "white.png").table
    assert table.startswith("unknown: not a single grain")
    assert "\n" not in table


def test_what_is_no_photograph_is_one_line(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    for answer in (lambda file: answer_tray(BySize(), file), lambda file: answer_grain(BySize(), file)):
        with pytest.raises(BadImageError):
            answer(tmp_path / "a.jpg")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[str]:
    """The address of a running `rice demo`, with no way to any other machine that it could not do without."""
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed (the extra `demo`)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rice_lib", "demo", "--port", str(port), "--model", str(tiny_onnx())]
    log = tmp_path_factory.mktemp("demo") / "log"
    dead_end = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **dead_end, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, env=environment) as process:
        try:
            end = time.monotonic() + 180
            while process.poll() is None and time.monotonic() < end and not _answers(port):
                time.sleep(0.5)
            assert _answers(port), log.read_text()
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
    assert "Traceback" not in log.read_text()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_the_page_in_a_browser_at_two_widths_asks_no_other_site(page, photograph, tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    text = "document.querySelector('pre')?.innerText"
    with chromium(tmp_path / "profile") as tab:
        for width, height in ((1280, 900), (390, 844)):
            tab.open(page, width, height, mobile=width < 500)
            tab.wait("!!document.querySelector('input[type=file]')")
            assert "image/*" in tab.value("document.querySelector('input[type=file]').accept")  # a telephone's camera
            tab.put("input[type=file]", photograph)
            tab.wait(f"{text}?.includes('{COUNT} grains')")
            tab.wait("[...document.images].some(image => image.naturalWidth >= 850)")
            assert tab.value("document.documentElement.scrollWidth <= innerWidth")
            assert Image.open(tab.screenshot(tmp_path / "page.png")).width <= width
            file = tab.download("[...document.querySelectorAll('a, button')].find(b => b.innerText == 'Download CSV')")
            assert len(list(csv.DictReader(io.StringIO(file)))) == COUNT
            tab.value("[...document.querySelectorAll('input[type=radio]')].at(-1).click()")
            tab.wait(f"{json.dumps(VARIETIES)}.every(variety => {text}?.includes(variety))")
        tab.open(page, 1280, 900)
        tab.wait("!!document.querySelector('input[type=file]')")
        tab.put("input[type=file]", tmp_path / "bad.jpg")
        tab.wait("document.querySelector('[role=alert]')?.innerText")
    foreign = [url for url in tab.requests if not url.startswith((page, "data:", "blob:", "about:"))]
    assert not foreign
    assert len(tab.requests) > 30
