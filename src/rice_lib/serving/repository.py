"""Triton's model repository: one folder that serves on a laptop and, unchanged, in NVIDIA's container.

    <repository>/rice/                      what clients ask with pixels: an ensemble of version 1's classifier
    <repository>/rice_bytes/                what clients ask with files: an ensemble of all of version 1's models
    <repository>/rice_v1/config.pbtxt       the classifier, ONNX Runtime on a CPU: what a server takes by itself
    <repository>/rice_v1/configs/gpu.pbtxt  ONNX Runtime on a GPU: taken by `--model-config-name=gpu`
    <repository>/rice_v1/configs/tensorrt.pbtxt     a TensorRT plan, in the same way
    <repository>/rice_v1/labels.txt         class names for Triton's classification extension
    <repository>/rice_v1/1/model.onnx       and model.plan, once serving/build_plan.sh has built it
    <repository>/rice_v1/version.json       what the version is: written last, so a version that has it is whole
    <repository>/rice_v1_decode/1/          the image contract's code
    <repository>/rice_v1_tell/1/            the decision's code, and the decision

The configurations have the same names, inputs, outputs and labels, so a client cannot tell them apart. Versions are
kept: a new one is written beside those that are there (`Repository.add`) and never touched again; `Repository.switch`
has it answer, by writing the two ensembles anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import rice_lib
from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import RiceError
from rice_lib.common.files import locked, read_json, sha256_file, write_json, write_text
from rice_lib.common.machine import cores
from rice_lib.contract.decision import Decision
from rice_lib.serving import config as configs
from rice_lib.serving.config import LABELS_FILE, WARMUP_FILE, Engine, Names, Served

CONFIG_FILES: dict[Engine, str] = {
    "onnxruntime": "config.pbtxt",
    "gpu": "configs/gpu.pbtxt",
    "tensorrt": "configs/tensorrt.pbtxt",
}
"""A server takes `configs/<x>.pbtxt` where started with `--model-config-name=<x>`, else `config.pbtxt`."""

VERSION_FILE, DECISION_FILE = "version.json", "decision.json"

CONTRACT: dict[str, tuple[str, ...]] = {
    "decode": ("__init__", "errors", "imagefile", "colour", "preprocess", "features"),
    "tell": ("__init__", "errors", "features", "decision", "results"),
}
"""Modules of this library that a Python model imports, copied beside it: numpy and Pillow are all they need."""


@dataclass(frozen=True)
class Version:
    """One version of a served model, as its `version.json` has it."""

    version: int
    onnx_sha256: str
    plan_sha256: str | None
    source: str
    """The file that it was made of, as it was named."""
    created: str
    """UTC, ISO 8601."""
    replaces: int | None
    """The version that answered when this one was made: what a rollback goes back to."""
    engine: Engine
    max_batch: int
    instances: int
    code_sha256: str
    """Of the code that decodes and decides."""

    def same(self, other: Version) -> bool:
        """Whether both serve the same model with the same settings."""
        return replace(self, version=0, source="", created="", replaces=None) == replace(
            other, version=0, source="", created="", replaces=None
        )


class Repository:
    """A model repository's folder, and the models in it that serve one classifier."""

    def __init__(self, folder: Path, name: str = "rice") -> None:
        """Name a repository, there or not.

        Raises:
            RiceError: the name does not fit a file's.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise RiceError(f"serve.model_name {name!r}: use letters, digits, '_', '-' and '.', as in a file's name")
        self.folder = folder
        self.names = Names(name)

    def classifier(self, version: int) -> Path:
        """The folder of a version's classifier."""
        return self.folder / self.names.steps(version)[1]

    def versions(self) -> dict[int, Version]:
        """Every whole version by its number, oldest first."""
        found = {}
        for file in self.folder.glob(f"{self.names.classifier}_v*/{VERSION_FILE}"):
            try:
                version = Version(**read_json(file))
            except (OSError, ValueError, TypeError):
                continue  # not whole
            found[version.version] = version
        return dict(sorted(found.items()))

    def active(self) -> Version | None:
        """The version that answers; None where there is none."""
        file = self.folder / self.names.ensemble / CONFIG_FILES["onnxruntime"]
        try:
            config = configs.read_config(file.read_text(encoding="utf-8"))
            return self.versions().get(int(config.parameters["version"].string_value))
        except FileNotFoundError:
            return None
        except ValueError:
            raise RiceError(f"{file}: damaged; delete {self.folder} and build it anew (serve build)") from None

    def add(
        self,
        model: Path,
        max_batch: int,
        instances: int | None = None,
        engine: Engine = "onnxruntime",
        plan: Path | None = None,
    ) -> Version:
        """Write a model as a new version, whole or not at all; nothing else is touched, and it does not answer yet.

        Args:
            model: an ONNX file of this project; its labels and its decision are taken from its metadata.
            max_batch: most images of one request.
            instances: of each model on a CPU; None is one a core.
            engine: what `config.pbtxt` has the classifier computed by.
            plan: a TensorRT plan of the model, put beside it.

        Returns:
            the version; the one that answers, where that is the same model and the same settings.

        Raises:
            RiceError: the model is missing, damaged or not of this project, or another build is under way.
        """
        if model.suffix != ".onnx":
            raise RiceError(f"{model}: the server takes an .onnx file (a plan is built of it: serving/build_plan.sh)")
        if plan is not None and not plan.is_file():
            raise RiceError(f"{plan}: no such plan; serving/build_plan.sh builds one of a version that is there")
        with open_predictor(model, threads=1) as predictor:
            labels, decision = predictor.labels, predictor.decision
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, f"{self.folder}: another build is under way"):
            active = self.active()
            made = Version(
                version=self._next(),
                onnx_sha256=sha256_file(model),
                plan_sha256=sha256_file(plan) if plan else None,
                source=str(model),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                replaces=active.version if active else None,
                engine=engine,
                max_batch=max_batch,
                instances=instances or cores(),
                code_sha256=_code_identity(),
            )
            if active is not None and made.same(active):
                return active
            served = Served(made.version, labels, decision, max_batch, made.instances)
            with self._staged() as staged:
                self._write_version(staged, model, plan, made, served)
                decode, classify, tell = self.names.steps(made.version)
                for name in (decode, tell, classify):  # the last one's version.json says that the version is whole
                    (staged / name).rename(self.folder / name)
        return made

    def switch(
        self,
        version: int,
        load: Callable[[str], None] | None = None,
        unload: Callable[[str], None] | None = None,
    ) -> None:
        """Have a version answer.

        The ensembles are written anew one after the other, and nothing that the other version is made of is touched: a
        server that loads them keeps the old ones until the new ones are ready.

        Args:
            version: one of `versions`.
            load: has a running server load a model, or load it anew; returns when it is ready.
            unload: has it let a model go once its requests are answered.

        Raises:
            RiceError: there is no such version; or what `load` raises, with the version before still answering.
        """
        known = self.versions()
        if version not in known:
            there = ", ".join(map(str, known)) or "none"
            raise RiceError(f"{self.folder}: has no version {version} of {self.names.classifier} (there: {there})")
        before = self.active()
        if load is not None:
            for name in self.names.steps(version):
                load(name)
        self._point(known[version])
        gone_over = []
        if load is not None:
            try:
                for name in self.names.public:
                    load(name)
                    gone_over.append(name)
            except RiceError:
                if before is not None:
                    self._point(before)
                    for name in gone_over:
                        load(name)
                raise
        if unload is not None and before is not None and before.version != version:
            for name in self.names.steps(before.version):
                unload(name)

    def previous(self) -> int:
        """The version that a rollback goes back to; raises `RiceError` where there is none."""
        active = self.active()
        if active is None or active.replaces not in self.versions():
            raise RiceError(f"{self.folder}: no earlier version to go back to")
        return int(active.replaces or 0)

    def decision(self, version: int) -> tuple[tuple[str, ...], Decision | None]:
        """Labels and decision of a version."""
        file = self.folder / self.names.steps(version)[2] / "1" / DECISION_FILE
        told = read_json(file)
        decision = Decision.from_json(json.dumps(told["decision"]), str(file)) if told["decision"] else None
        return tuple(told["labels"]), decision

    def files(self) -> list[tuple[str, int]]:
        """Every file with its size in bytes, by path."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in found]

    def discard(self, version: int) -> None:
        """Remove a version that is not to answer."""
        decode, classify, tell = self.names.steps(version)
        for name in (classify, decode, tell):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _next(self) -> int:
        """The next number; none is used again, also not that of a version whose writing was cut off."""
        found = (re.match(rf"{re.escape(self.names.classifier)}_v(\d+)", f.name) for f in self.folder.iterdir())
        return max((int(match[1]) for match in found if match), default=0) + 1

    def _write_version(self, staged: Path, model: Path, plan: Path | None, made: Version, served: Served) -> None:
        """The folders of a version's models."""
        decode, classify, tell = (staged / name for name in self.names.steps(made.version))
        for folder in (decode, classify, tell):
            (folder / "1").mkdir(parents=True)
        for folder, kind in ((decode, "decode"), (tell, "tell")):
            _copy_code(folder / "1", kind)
        _write_warmup(decode / "warmup" / WARMUP_FILE)
        write_text(decode / CONFIG_FILES["onnxruntime"], configs.decode_config(decode.name, served))
        decision = json.loads(served.decision.to_json()) if served.decision else None
        write_json(tell / "1" / DECISION_FILE, {"labels": list(served.labels), "decision": decision})
        write_text(tell / CONFIG_FILES["onnxruntime"], configs.tell_config(tell.name, served))
        _write_labels(tell, served)
        shutil.copyfile(model, classify / "1" / "model.onnx")
        if plan is not None:
            shutil.copyfile(plan, classify / "1" / "model.plan")
        _write_labels(classify, served)
        for variant, file in CONFIG_FILES.items():
            engine = made.engine if variant == "onnxruntime" else variant
            write_text(classify / file, configs.classifier_config(classify.name, served, engine))
        write_json(classify / VERSION_FILE, asdict(made))

    def _point(self, made: Version) -> None:
        """Write the ensembles of a version."""
        labels, decision = self.decision(made.version)
        served = Served(made.version, labels, decision, made.max_batch, made.instances)
        for name, text in zip(
            self.names.public,
            (configs.pixels_config(self.names, served), configs.bytes_config(self.names, served)),
            strict=True,
        ):
            folder = self.folder / name
            _write_labels(folder, served)
            # an ensemble's version has no files of its own, and Triton wants a folder
            write_json(folder / str(made.version) / VERSION_FILE, asdict(made))
            write_text(folder / CONFIG_FILES["onnxruntime"], text)

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A folder beside the repository, not in it: a server that looks must not see half a version."""
        staged = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(staged, ignore_errors=True)
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def write_repository(model: Path, folder: Path, name: str, max_batch: int, instances: int | None = None) -> Repository:
    """A repository that holds a model and answers with it; see `Repository.add` and `Repository.switch`."""
    repository = Repository(folder, name)
    repository.switch(repository.add(model, max_batch, instances).version)
    return repository


def drawn_grain() -> bytes:
    """A JPEG of something like a grain on black: what a server is warmed up with, and asked for a first answer."""
    image = Image.new("RGB", (250, 250))
    ImageDraw.Draw(image).ellipse((55, 95, 195, 155), fill=(214, 214, 220))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _write_labels(folder: Path, served: Served) -> None:
    write_text(folder / LABELS_FILE, "".join(f"{label}\n" for label in served.labels))


def _code_identity() -> str:
    """Hex sha256 of the code that a version is given."""
    library, models = Path(rice_lib.__file__).parent, Path(__file__).with_name("models")
    files = [models / f"{kind}.py" for kind in CONTRACT]
    files += [library / f"{module}.py" for kind in CONTRACT.values() for module in kind]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _copy_code(folder: Path, kind: str) -> None:
    library = Path(rice_lib.__file__).parent
    shutil.copyfile(Path(__file__).with_name("models") / f"{kind}.py", folder / "model.py")
    (folder / "rice_lib").mkdir()
    for module in CONTRACT[kind]:
        shutil.copyfile(library / f"{module}.py", folder / "rice_lib" / f"{module}.py")


def _write_warmup(file: Path) -> None:
    """Triton's form of a string in a file: its length, four bytes, little-endian, and the string."""
    data = drawn_grain()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(np.uint32(len(data)).tobytes() + data)
