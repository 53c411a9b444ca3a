"""Triton's model repository: one folder that serves on a laptop and, unchanged, in NVIDIA's container.

    <repository>/rice/config.pbtxt          ONNX Runtime on a CPU: what a server takes by itself
    <repository>/rice/configs/gpu.pbtxt     ONNX Runtime on a GPU: taken by `--model-config-name=gpu`
    <repository>/rice/configs/tensorrt.pbtxt    a TensorRT plan, in the same way
    <repository>/rice/labels.txt            class names for Triton's classification extension
    <repository>/rice/1/model.onnx          and model.plan, once serving/build_plan.sh has built it
    <repository>/rice/1/version.json        what the version is: written last, so a version that has it is whole
    <repository>/rice_decode/1/             the image contract's code
    <repository>/rice_tell/1/               the decision's code, and the decision
    <repository>/rice_bytes/                the ensemble of the three: files in, varieties out

The configurations have the same names, inputs, outputs and labels, so a client cannot tell them apart. Versions are
kept: a new one is written beside those that are there (`Repository.add`), and `Repository.switch` has it answer. The
configurations themselves say which version that is.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import rice_lib
from rice_lib.decision import Decision
from rice_lib.deploy.predictors import open_predictor
from rice_lib.deploy.triton import config as configs
from rice_lib.deploy.triton.config import ENGINES, LABELS_FILE, WARMUP_FILE, Engine, Names, Served
from rice_lib.errors import RiceError
from rice_lib.files import locked, read_json, sha256_file, write_json, write_text
from rice_lib.machine import cores

CONFIG_FILES: dict[Engine, str] = {
    "onnxruntime": "config.pbtxt",
    "gpu": "configs/gpu.pbtxt",
    "tensorrt": "configs/tensorrt.pbtxt",
}
"""A server takes `configs/<x>.pbtxt` where started with `--model-config-name=<x>`, else `config.pbtxt`."""

VERSION_FILE, DECISION_FILE = "version.json", "decision.json"

CONTRACT: dict[str, tuple[str, ...]] = {
    "decode": ("__init__", "errors", "imagefile", "colour", "preprocess", "measures"),
    "tell": ("__init__", "errors", "measures", "decision"),
}
"""Modules of this library that a Python model imports, copied beside it: numpy and Pillow are all they need."""


@dataclass(frozen=True)
class Version:
    """One version of a served model, as its `version.json` has it."""

    version: int
    onnx_sha256: str
    source: str
    """The file that it was made of, as it was named."""
    created: str
    """UTC, ISO 8601."""
    replaces: int | None
    """The version that answered when this one was made: what a rollback goes back to."""
    max_batch: int
    instances: int
    rice_lib: str
    """Version of this library, whose code decodes."""


class Repository:
    """A model repository's folder, and the set of models in it that serve one classifier."""

    def __init__(self, folder: Path, name: str = "rice") -> None:
        """Name a repository, there or not.

        Raises:
            RiceError: the name does not fit a file's.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise RiceError(f"serve.model_name {name!r}: use letters, digits, '_', '-' and '.', as in a file's name")
        self.folder = folder
        self.names = Names(name)

    @property
    def classifier(self) -> Path:
        """The classifier's own folder."""
        return self.folder / self.names.classifier

    def versions(self) -> dict[int, Version]:
        """Every whole version by its number, oldest first."""
        found = {}
        for file in self.classifier.glob(f"*/{VERSION_FILE}"):
            try:
                version = Version(**read_json(file))
            except (OSError, ValueError, TypeError):
                continue  # not whole
            found[version.version] = version
        return dict(sorted(found.items()))

    def active(self) -> Version | None:
        """The version that answers; None where there is none."""
        file = self.classifier / CONFIG_FILES["onnxruntime"]
        try:
            config = configs.read_config(file.read_text(encoding="utf-8"))
            return self.versions().get(int(config.parameters["version"].string_value))
        except FileNotFoundError:
            return None
        except ValueError:
            raise RiceError(f"{file}: damaged; delete {self.folder} and build it anew (serve build)") from None

    def engine(self) -> Engine:
        """What `config.pbtxt` has the classifier computed by."""
        text = (self.classifier / CONFIG_FILES["onnxruntime"]).read_text(encoding="utf-8")
        return "tensorrt" if configs.read_config(text).platform == "tensorrt_plan" else "onnxruntime"

    def add(self, model: Path, max_batch: int, instances: int | None = None) -> Version:
        """Write a model as a new version, whole or not at all; nothing else is touched, and it does not answer yet.

        Args:
            model: an ONNX file of this project; its labels and its decision are taken from its metadata.
            max_batch: most images of one request.
            instances: of each model on a CPU; None is one a core.

        Returns:
            the version; the one that answers, where that is the same model and the same settings.

        Raises:
            RiceError: the model is missing, damaged or not of this project, or another build is under way.
        """
        if model.suffix != ".onnx":
            raise RiceError(f"{model}: the server takes an .onnx file (a plan is built of it: serving/build_plan.sh)")
        with open_predictor(model, threads=1) as predictor:
            labels, decision = predictor.labels, predictor.decision
        with self._building():
            active, known = self.active(), self.versions()
            made = Version(
                version=max([*known, *self._numbers()], default=0) + 1,
                onnx_sha256=sha256_file(model),
                source=str(model),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                replaces=active.version if active else None,
                max_batch=max_batch,
                instances=instances or cores(),
                rice_lib=rice_lib.__version__,
            )
            if active is not None and _same(active, made) and self.decision(active.version) == (labels, decision):
                return active
            with self._staged() as staged:
                self._write_version(staged, model, labels, decision, made)
                for name in (self.names.ensemble, self.names.decode, self.names.tell, self.names.classifier):
                    target = self.folder / name / str(made.version)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (staged / name).rename(target)
        return made

    def switch(self, version: int, engine: Engine = "onnxruntime", reload: Callable[[str], None] | None = None) -> None:
        """Have a version answer, in steps after each of which a server can load what is there.

        First the steps of the ensemble are loaded in both versions, then the ensemble goes over to the new one, then
        the old ones are let go: no request is without an answer, and none has the logits of one version read by the
        decision of another.

        Args:
            version: one of `versions`.
            engine: what `config.pbtxt` has the classifier computed by.
            reload: has a running server read a model's configuration again.

        Raises:
            RiceError: there is no such version; or what `reload` raises, with the old version still answering.
        """
        if version not in self.versions():
            there = ", ".join(map(str, self.versions())) or "none"
            raise RiceError(f"{self.folder}: has no version {version} of {self.names.classifier} (there: {there})")
        before = self.active()
        both = tuple(sorted({version, before.version if before else version}))
        for loaded in dict.fromkeys([both, (version,)]):
            for name in self.names.steps:
                self._write_configs(name, version, loaded, engine)
                if reload is not None:
                    reload(name)
            if loaded == both:
                self._write_configs(self.names.ensemble, version, (version,), engine)
                if reload is not None:
                    reload(self.names.ensemble)

    def previous(self) -> int:
        """The version that a rollback goes back to; raises `RiceError` where there is none."""
        active = self.active()
        if active is None or active.replaces not in self.versions():
            raise RiceError(f"{self.folder}: no earlier version to go back to")
        return int(active.replaces or 0)

    def decision(self, version: int) -> tuple[tuple[str, ...], Decision | None]:
        """Labels and decision of a version."""
        file = self.folder / self.names.tell / str(version) / DECISION_FILE
        told = read_json(file)
        decision = Decision.from_json(json.dumps(told["decision"]), str(file)) if told["decision"] else None
        return tuple(told["labels"]), decision

    def files(self) -> list[tuple[str, int]]:
        """Every file with its size in bytes, by path."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in found]

    def remove(self) -> None:
        """Remove the set's models, every version; others in the folder are left alone."""
        for name in (*self.names.steps, self.names.ensemble):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _write_version(
        self, staged: Path, model: Path, labels: Sequence[str], decision: Decision | None, made: Version
    ) -> None:
        """A folder for each of the four models, with what its version folder holds."""
        classifier, decode, tell, ensemble = (staged / name for name in (*_order(self.names), self.names.ensemble))
        for folder in (classifier, decode, tell, ensemble):
            folder.mkdir(parents=True)
        shutil.copyfile(model, classifier / "model.onnx")
        for folder, kind in ((decode, "decode"), (tell, "tell")):
            _copy_code(folder, kind)
        told = {"labels": list(labels), "decision": json.loads(decision.to_json()) if decision else None}
        write_json(tell / DECISION_FILE, told)
        # an ensemble's version has no files of its own, and Triton wants a folder
        for folder in (ensemble, classifier):
            write_json(folder / VERSION_FILE, asdict(made))

    def _write_configs(self, name: str, version: int, loaded: tuple[int, ...], engine: Engine) -> None:
        labels, decision = self.decision(version)
        about, folder = self.versions()[version], self.folder / name
        served = Served(labels, decision, about.max_batch, about.instances, version, loaded)
        write_text(folder / LABELS_FILE, "".join(f"{label}\n" for label in labels))
        if name == self.names.classifier:
            for other in ENGINES:
                own = engine if other == "onnxruntime" else other
                write_text(folder / CONFIG_FILES[other], configs.classifier_config(name, served, own))
            return
        if name == self.names.decode:
            _write_warmup(folder / "warmup" / WARMUP_FILE)
            text = configs.decode_config(name, served)
        elif name == self.names.tell:
            text = configs.tell_config(name, served)
        else:
            text = configs.ensemble_config(self.names, served)
        write_text(folder / CONFIG_FILES["onnxruntime"], text)

    def _numbers(self) -> list[int]:
        """Numbers that folders have, whole versions or not: none is used again."""
        folders = (folder for name in self.names.steps for folder in (self.folder / name).glob("*"))
        return [int(folder.name) for folder in folders if folder.name.isdecimal()]

    @contextmanager
    def _building(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, f"{self.folder}: another build is under way"):
            yield

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


def _order(names: Names) -> tuple[str, str, str]:
    return names.classifier, names.decode, names.tell


def _same(one: Version, other: Version) -> bool:
    settings: tuple[str, ...] = ("onnx_sha256", "max_batch", "instances", "rice_lib")
    return all(getattr(one, name) == getattr(other, name) for name in settings)


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
