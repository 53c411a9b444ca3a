"""`rice demo`: a page in the browser that takes a photograph of one grain or of a tray.

Drop a file, choose one, or take one with a telephone: the page shows the annotated picture and the figures of
`rice infer`, with a CSV file. It loads nothing from other sites.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.backends.predictor import Predictor, first_line
from rice_lib.cli.arguments import length, positive
from rice_lib.cli.explain import picture_of
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import BadImageError, configure_pillow, open_image
from rice_lib.explain.occlusion import relevance_maps
from rice_lib.predict.inputs import decode_all
from rice_lib.predict.pipeline import predict_batch
from rice_lib.predict.writers import Writer

GRAIN, TRAY = "one grain", "a tray of grains"
_TABLE = "font-size: min(14px, 2.7vw); white-space: pre-wrap"  # a telephone's width holds a row of figures
_LINE, _LAST = "display: block; padding-left: 4ch; text-indent: -4ch", "display: inline-block; text-indent: 0"


@dataclass(frozen=True)
class Answer:
    """What the page shows of a photograph: the annotated picture, the figures as a table, and as CSV."""

    picture: Image.Image
    table: str
    csv: str

    @classmethod
    def of(cls, record: Any, picture: Image.Image, table: str, csv: Any) -> Answer:
        """Put a record and its table together; `csv` is the `Writer` or `TrayWriter` that formats it as CSV."""
        return cls(picture, table, csv.header + csv.text(csv.as_dict(record)))


def answer_grain(predictor: Predictor, photo: Path) -> Answer:
    """Classify a photograph of one grain as `rice infer` does; raises `BadImageError` where it is no image."""
    (item,) = (item for item in decode_all([str(photo)], 1) if item is not None)
    if item.pixels is None:
        raise BadImageError(item.error)
    (record,) = predict_batch(predictor, [replace(item, path=photo.name)])
    assert record.prediction is not None
    (relevance,) = relevance_maps(predictor, item.pixels[None])
    scores = record.as_dict(len(predictor.labels))["scores"]  # one a line: a telephone is narrow
    lines = [f"{name:<12}{score:7.2%}" for name, score in scores.items()]
    lines = [*(lines if record.reason is None else [f"{record.label}: {record.reason}"]), *record.notes]
    csv = Writer("csv", predictor.labels, len(predictor.labels))
    return Answer.of(record, picture_of(record.prediction, item.pixels, relevance), "\n".join(lines), csv)


def answer_tray(
    predictor: Predictor, photo: Path, reference_mm: float | None = None, mm_per_pixel: float | None = None
) -> Answer:
    """Analyse a photograph of a tray as `rice infer --grains` does; raises `BadImageError` where it shows none."""
    from rice_lib.tray.analyse import analyse
    from rice_lib.tray.picture import draw
    from rice_lib.tray.record import TrayWriter

    image = np.asarray(open_image(str(photo)))
    record = analyse(predictor, photo.name, image, mm_per_pixel=mm_per_pixel, reference_mm=reference_mm)
    table, csv = (TrayWriter(form, predictor.labels, len(predictor.labels)) for form in ("table", "csv"))
    text = table.text(table.as_dict(record)) + "".join(f"note: {note}\n" for note in record.notes)
    return Answer.of(record, draw(image, record), text, csv)


def as_html(table: str) -> str:
    """Lay out a table of text for any width: a last column that does not fit goes below its row, indented."""
    rows = [
        re.sub(r"(?<= {3})\S+( \S+)*$", rf"<span style='{_LAST}'>\g<0></span>", escape(row))
        for row in table.splitlines()
    ]
    return f"<pre style='{_TABLE}'>" + "".join(f"<span style='{_LINE}'>{row}</span>" for row in rows) + "</pre>"


def build_page(gradio: ModuleType, predictor: Predictor, options: argparse.Namespace, folder: Path) -> Any:
    """Build the page, a `gradio.Blocks`; `folder` takes the CSV files."""

    def show(photo: str | None, kind: str, reference_mm: float | None) -> tuple[Any, str, Any]:
        no_file, path = gradio.DownloadButton(visible=False), Path(photo or "")
        if photo is None:
            return None, "", no_file
        try:
            scale = (reference_mm, None) if reference_mm else (None, options.mm_per_pixel)
            answer = answer_tray(predictor, path, *scale) if kind == TRAY else answer_grain(predictor, path)
        except (BadImageError, RiceError) as error:
            return None, f"<p role=alert>{escape(first_line(error))}</p>", no_file
        file = folder / f"{path.stem}.csv"
        file.write_text(answer.csv, encoding="utf-8", errors="backslashreplace", newline="")
        return (
            answer.picture,
            as_html(answer.table),
            gradio.DownloadButton(value=str(file), visible=True),
        )

    with gradio.Blocks(title="Rice varieties", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.Markdown(f"# Rice varieties in a photograph\nThe model knows {', '.join(predictor.labels)}.")
        with gradio.Row():
            with gradio.Column(scale=1):
                photo = gradio.File(label="Photograph", file_types=["image", ".heic", ".heif"])
                kind = gradio.Radio([TRAY, GRAIN], value=TRAY, label="It shows")
                about = "diameter of a round object among the grains; 0 where there is none"
                reference = gradio.Number(options.reference_mm or 0, label="Reference, mm", info=about)
            with gradio.Column(scale=2):
                picture = gradio.Image(show_label=False, buttons=["fullscreen", "download"])
                table = gradio.HTML()
                csv = gradio.DownloadButton("Download CSV", visible=False)
        asked = [photo.change, kind.change, reference.submit, reference.blur]
        gradio.on(asked, show, [photo, kind, reference], [picture, table, csv], api_visibility="private")
    return page


def main(arguments: Sequence[str] | None = None, prog: str = "rice demo") -> int:
    """Serve the page until Ctrl-C or SIGTERM; raises `RiceError` where the model or the port are not."""
    options = parser(prog).parse_args(arguments)
    configure_pillow()
    with TemporaryDirectory(prefix="rice-demo-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        import cv2  # noqa: F401
        import gradio

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Gradio ends at Ctrl-C
        with open_predictor(options.model or default_model(), options.threads) as predictor:
            # fonts of the reader's own system: Gradio's themes load Google's
            theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
            page = build_page(gradio, predictor, options, Path(folder))
            print(f"rice demo: http://{options.host}:{options.port} (Ctrl-C ends it)", flush=True)
            settings = {"theme": theme, "footer_links": [], "max_file_size": "64mb", "quiet": True}
            try:
                page.launch(server_name=options.host, server_port=options.port, **settings)
            except OSError as error:
                raise RiceError(f"--port {options.port}: not to be had ({first_line(error)})") from None
    return 0


def parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    command = argparse.ArgumentParser(prog=prog, description="A page that takes a photograph of one grain or a tray.")
    command.add_argument("--model", metavar="M", help="checkpoint, .onnx, .plan, triton://host:port/name")
    command.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the model (default: all cores)")
    scale = command.add_mutually_exclusive_group()
    scale.add_argument("--mm-per-pixel", type=length, metavar="X", help="scale of the photographs of trays,")
    scale.add_argument("--reference-mm", type=length, metavar="D", help="or the diameter of a round object on each")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: anyone who reaches it")
    command.add_argument("--port", type=positive, default=7860, help="port to listen on (default: %(default)s)")
    return command
