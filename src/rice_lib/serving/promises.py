"""Two promises of a service beyond those of `smoke`: a file's answer is that of `rice infer`, and a new version costs
nobody an answer. Each check returns a table for notebook 07 and raises `BrokenPromiseError` where it is not kept."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from rice_lib.backends.predictor import Predictor
from rice_lib.backends.triton import import_tritonclient
from rice_lib.common.errors import RiceError
from rice_lib.common.tracking import Metric
from rice_lib.contract.decision import Decision
from rice_lib.contract.decode import IMAGE_SIZE, decode_with_notes
from rice_lib.contract.features import extract_features
from rice_lib.contract.record import Record
from rice_lib.serving.config import FILE, INPUT, Names
from rice_lib.serving.release import Control
from rice_lib.serving.repository import Repository, drawn_grain
from rice_lib.serving.smoke import BrokenPromiseError, SmokeTest

SCORE_TOLERANCE = 1e-5
CLIENTS = 8
"""That ask at once, while versions are switched."""

_RAW = {"Inference-Header-Content-Length": "0"}
"""A request that is the file and nothing else: what `curl --data-binary @grain.jpg` sends."""


def file_answers(smoke: SmokeTest) -> pd.DataFrame:
    """Files of many forms, sent as they are, against the same files told in this process."""
    if smoke.obstacle:
        return smoke.not_measured("files", "serve/file_scores_max_abs")
    rows, worst = [], 0.0
    for form, data in {**grain_forms(), **damaged_forms()}.items():
        status, told = ask_bytes(smoke.address["http"], Names(smoke.model).ensemble, data)
        expected = tell_here(smoke.reference, data)
        apart = _apart(told, expected)
        if status != (400 if "error" in expected else 200) or not apart <= SCORE_TOLERANCE:
            raise BrokenPromiseError(f"{form}: the server says {told}, rice infer {expected}")
        worst = max(worst, apart)
        because = expected.get("error") or expected.get("reason", "")
        rows.append((form, status, expected.get("label", ""), because, "" if status == 400 else f"{apart:.0e}"))
    how = "largest difference of a score from rice infer's on the same file"
    smoke.metrics["serve/file_scores_max_abs"] = Metric(worst, n=len(rows), how=how)
    return pd.DataFrame(rows, columns=["file", "status", "told", "because", "score apart"])


def switch_under_load(smoke: SmokeTest) -> pd.DataFrame:
    """A second version is taken into service, and the first again, while clients ask without a pause."""
    if smoke.obstacle or smoke.server is None:
        return smoke.not_measured("switch", "serve/lost_in_switch")
    repository = Repository(smoke.run.paths.repository, smoke.model)
    control = Control(smoke.address["grpc"])
    first = repository.active()
    assert first is not None
    made = repository.add(
        repository.classifier(first.version) / "1" / "model.onnx", max(1, first.max_batch // 2), first.instances
    )

    def to_and_fro() -> None:
        for version in (made.version, first.version):
            repository.switch(version, control.load, control.unload)

    answered, lost = _under_load(smoke, to_and_fro)
    control.close()
    repository.discard(made.version)
    if lost:
        raise BrokenPromiseError(f"{len(lost)} requests were lost while versions were switched: {lost[0]}")
    total = sum(answered.values())
    smoke.metrics["serve/lost_in_switch"] = Metric(0.0, n=total, how="requests without an answer during two switches")
    rows = [(model, version, count, 0) for (model, version), count in sorted(answered.items())]
    return pd.DataFrame(rows, columns=["model", "version", "answered", "lost"])


def ask_bytes(address: str, model: str, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send a file as it is.

    Args:
        address: `host:port` of the HTTP endpoint.
        model: the ensemble's name.
        data: the file's bytes.

    Returns:
        the status, and what the server told: the record that `rice infer` prints, or `{"error": why}`.
    """
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", f"/v2/models/{model}/infer", body=data, headers=_RAW)
        answer = connection.getresponse()
        status, length, body = answer.status, answer.headers["Inference-Header-Content-Length"], answer.read()
    finally:
        connection.close()
    if status != 200:
        said = json.loads(body)["error"]
        return status, {"error": said.removeprefix(f"in ensemble '{model}', ")}
    at = int(length)
    for output in json.loads(body[:at])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        if output["name"] == "record":
            return status, json.loads(body[at + 4 : at + size])  # a string comes behind its length
        at += size
    raise BrokenPromiseError(f"{model}: no record in its answer")


def tell_here(model: Predictor, data: bytes) -> dict[str, Any]:
    """What a model in this process tells of a file: the record of `rice infer`, without the path."""
    try:
        pixels, notes = decode_with_notes(data)
    except RiceError as error:
        return {"error": str(error)}
    decision = model.decision or Decision()
    logits = model.logits(pixels[None])
    scores = dict(zip(model.labels, decision.probabilities(logits)[0].tolist(), strict=True))
    reason = decision.rejections(logits, extract_features(pixels)[None])[0]
    record = Record("", scores, reason, notes).record(len(scores))
    del record["path"]
    return record


def grain_forms() -> dict[str, bytes]:
    """A drawn grain in forms that photographs come in: name to the file's bytes."""
    image = Image.open(io.BytesIO(drawn_grain()))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [image.convert("P"), ImageOps.mirror(image).convert("P")]
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    forms: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "JPEG": (image, "JPEG", {}),
        "progressive JPEG": (image, "JPEG", {"progressive": True}),
        "JPEG, CMYK": (image.convert("CMYK"), "JPEG", {}),
        "JPEG, turned by EXIF": (image, "JPEG", {"exif": turned}),
        "JPEG, 400 x 250": (ImageOps.pad(image, (400, 250)), "JPEG", {}),
        "PNG": (image, "PNG", {}),
        "PNG, palette": (image.convert("P"), "PNG", {}),
        "PNG, alpha": (image.convert("RGBA"), "PNG", {}),
        "PNG, 16-bit grey": (Image.fromarray(grey), "PNG", {}),
        "GIF, animated": (frames[0], "GIF", {"save_all": True, "append_images": frames[1:]}),
        "WebP": (image, "WEBP", {}),
        "white paper": (Image.new("RGB", (250, 250), "white"), "PNG", {}),
    }
    return {name: _saved(*form) for name, form in forms.items()}


def damaged_forms() -> dict[str, bytes]:
    """Files that are no image to be told."""
    whole = drawn_grain()
    return {"truncated JPEG": whole[: len(whole) // 2], "text": b"not a grain\n" * 9, "HTML": b"<!DOCTYPE html><p>"}


def _saved(image: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _apart(told: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest difference of a score; infinite where anything else differs."""
    scores, other = told.get("scores", {}), expected.get("scores", {})
    rest = [{k: v for k, v in record.items() if k not in ("scores", "confidence")} for record in (told, expected)]
    if rest[0] != rest[1] or scores.keys() != other.keys():
        return float("inf")
    return max((abs(scores[name] - other[name]) for name in scores), default=0.0)


def _under_load(smoke: SmokeTest, act: Callable[[], object]) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Ask both models without a pause while `act` goes on; answers by model and version, and what was no answer."""
    names = Names(smoke.model)
    pixels = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    stop, answered, lost = threading.Event(), Counter[tuple[str, str]](), list[str]()

    def client(model: str) -> None:
        library = import_tritonclient("http")
        name, values = (FILE, np.array([[drawn_grain()]], np.object_)) if model == names.ensemble else (INPUT, pixels)
        tensor = library.InferInput(name, list(values.shape), "BYTES" if model == names.ensemble else "UINT8")
        tensor.set_data_from_numpy(values)
        with library.InferenceServerClient(smoke.address["http"]) as connection:
            while not stop.is_set():
                try:
                    version = connection.infer(model, [tensor]).get_response()["model_version"]
                    answered[model, version] += 1
                except Exception as error:  # whatever it is, it is a request without an answer
                    lost.append(f"{model}: {error}")
                    return

    threads = [threading.Thread(target=client, args=(model,)) for model in names.public * (CLIENTS // 2)]
    for thread in threads:
        thread.start()
    try:
        act()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return answered, lost
