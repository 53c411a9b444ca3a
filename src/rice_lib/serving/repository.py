"""Triton's model repository: one folder that serves on a laptop and, unchanged, in NVIDIA's container.

    <repository>/rice/                              the ensemble that clients call with pixels
    <repository>/rice_bytes/                        the ensemble that clients call with files
    <repository>/rice_v1/config.pbtxt               version 1's classifier, ONNX Runtime on a CPU: the default
    <repository>/rice_v1/configs/gpu.pbtxt          ONNX Runtime on a GPU (`--model-config-name=gpu`)
    <repository>/rice_v1/configs/tensorrt.pbtxt     a TensorRT plan, likewise
    <repository>/rice_v1/labels.txt                 class names for Triton's classification extension
    <repository>/rice_v1/ensembles/                 the configurations of the two ensembles while it answers
    <repository>/rice_v1/1/model.onnx               and model.plan, once serving/build_plan.sh has built it
    <repository>/rice_v1/version.json               what the version is; written last: it marks a complete version
    <repository>/rice_v1_decode/1/                  the image contract's code
    <repository>/rice_v1_postprocess/1/             the same code, and the decision

Clients call the two ensembles, which compute nothing, and name the version that answers. A version's own models carry
its number, because Triton takes an ensemble down while one of its models is loaded again. The variants have the same
inputs, outputs and labels: a client cannot see which one answers. Versions are kept: a new one is written beside the
others (`Repository.add`) and never changed; `Repository.switch` gives the ensembles the configurations it brings.

Configurations are made from the templates in `models/`, beside the code of the Python models. The fields are Triton's:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

import rice_lib.contract
from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import RiceError
from rice_lib.common.files import locked, read_json, sha256_file, write_json, write_text
from rice_lib.common.machine import cores
from rice_lib.contract.decision import Decision
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.contract.features import FEATURES
from rice_lib.serving.control import Control
from rice_lib.serving.server import public_models

CONFIG, LABELS_FILE = "config.pbtxt", "labels.txt"
VARIANTS = {"gpu": "configs/gpu.pbtxt", "tensorrt": "configs/tensorrt.pbtxt"}
"""A server that is started with `--model-config-name=<x>` takes `configs/<x>.pbtxt` where it is there."""

KEPT = 3  # versions that stay

VERSION_FILE, DECISION_FILE, ENSEMBLES = "version.json", "decision.json", "ensembles"

CONTRACT, MODELS = Path(rice_lib.contract.__file__).parent, Path(__file__).with_name("models")

INPUT, OUTPUT, FILE = "images", "logits", "file"
"""Names of the exported model's tensors (`rice_lib.export.onnx`), and of the ensemble's: a file's bytes a row."""

MAX_QUEUE = 4096
"""Requests that may wait for a model; the next is answered 503 at once.

More than clients send at once: where some 270 of an ensemble are rejected together, the HTTP front loses the answers of
the others (libevhtp hands them to its threads by a socket, and drops what does not fit in).
"""


@dataclass(frozen=True)
class Version:
    """One version of a served model, as its `version.json` has it; equal to one of the same model and settings."""

    version: int = field(compare=False)
    onnx_sha256: str
    source: str = field(compare=False)
    """The ONNX file that it was made of, as it was named."""
    created: str = field(compare=False)
    """UTC, ISO 8601."""
    replaces: int | None = field(compare=False)
    """The version that answered when this one was made: what a rollback goes back to."""
    max_batch: int
    instances: int
    code_sha256: str
    """Of the code that decodes and postprocesses, and of the configurations' templates."""


class Repository:
    """A model repository's folder, and the models in it that serve one classifier."""

    def __init__(self, folder: Path, name: str = "rice") -> None:
        """Name a repository, there or not; raises `RiceError` where the name does not fit a file's."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise RiceError(f"serve.model_name {name!r}: use letters, digits, '_', '-' and '.', as in a file's name")
        self.folder = folder
        self.name, self.public = name, public_models(name)
        self._held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the repository for one build or switch; may be nested; raises `RiceError` where another holds it."""
        if self._held:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, f"{self.folder}: another build is under way; try again when it has ended"):
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def steps(self, version: int) -> tuple[str, str, str]:
        """Name a version's own models: files to pixels, pixels to logits, logits to varieties."""
        own = f"{self.name}_v{version}"
        return f"{own}_decode", own, f"{own}_postprocess"

    def classifier(self, version: int) -> Path:
        """Find the folder of a version's classifier."""
        return self.folder / self.steps(version)[1]

    def versions(self) -> dict[int, Version]:
        """Find every complete version by its number, oldest first."""
        found = {}
        for file in self.folder.glob(f"{self.name}_v*/{VERSION_FILE}"):
            try:
                version = Version(**read_json(file))
            except (OSError, ValueError, TypeError):
                continue  # incomplete
            found[version.version] = version
        return dict(sorted(found.items()))

    def active(self) -> Version | None:
        """Find the version that answers; None where there is none; raises `RiceError` where it is damaged."""
        file = self.folder / self.public[1] / CONFIG
        if not file.is_file():
            return None
        number = re.search(r"versions: ?\[(\d+)\]", file.read_text(encoding="utf-8", errors="replace"))
        version = self.versions().get(int(number[1])) if number else None
        if version is None:
            why = "damaged, or written by an earlier state of this project"
            raise RiceError(f"{file}: {why}; delete {self.folder} and build it again (rice serve build)")
        return version

    def add(self, model: Path, max_batch: int, instances: int | None = None) -> Version:
        """Write an ONNX file as a new version, completely or not at all; it does not answer yet.

        Args:
            max_batch: most images of one request.
            instances: of each model on a CPU; None is one a core.

        Returns:
            The version; the one that answers, where that has the same model and settings.

        Raises:
            RiceError: a file is missing, damaged or not of this project, or another build is under way.
        """
        if model.suffix != ".onnx":
            raise RiceError(f"{model}: the server takes an .onnx file (serving/build_plan.sh builds a plan of it)")
        with open_predictor(model, threads=1) as predictor:
            labels, decision = predictor.labels, predictor.decision
        with self.held():
            active = self.active()
            code = [*sorted(CONTRACT.glob("*.py")), *sorted(MODELS.glob("*.p*"))]
            made = Version(
                version=max(self._numbers(), default=0) + 1,  # none is used again
                onnx_sha256=sha256_file(model),
                source=str(model),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                replaces=active.version if active else None,
                max_batch=max_batch,
                instances=instances or cores(),
                code_sha256=hashlib.sha256(b"".join(file.read_bytes() for file in code)).hexdigest(),
            )
            if made == active:
                return active
            # beside the repository, not in it: a server that looks must not see half a version
            with TemporaryDirectory(dir=self.folder.parent, prefix=f".{self.folder.name}.") as temporary:
                staged = Path(temporary)
                self._write_version(staged, made, labels, decision)
                decoder, classifier, postprocess = self.steps(made.version)
                shutil.copyfile(model, staged / classifier / "1" / "model.onnx")
                for name in (decoder, postprocess, classifier):  # whose version.json marks the version complete
                    (staged / name).rename(self.folder / name)
        return made

    def switch(self, version: int, control: Control | None = None) -> None:
        """Have a version answer, also on a running server, which keeps the old ensembles until the new ones are ready.

        Raises `RiceError` where there is no such version, another build is under way, or the server cannot load it: the
        version before then still answers.
        """
        with self.held():
            known = self.versions()
            if version not in known:
                there = ", ".join(map(str, known)) or "none"
                raise RiceError(f"{self.folder}: has no version {version} of {self.name} (there: {there})")
            before = self.active()
            if control is None:
                self._point(known[version])
                self._prune(known[version])
                return
            for name in self.steps(version):
                control.load(name)
            self._point(known[version])
            switched = []
            try:
                for name in self.public:
                    control.load(name)
                    switched.append(name)
            except RiceError:
                if before is not None:
                    self._point(before)
                    for name in switched:
                        control.load(name)
                raise
            own = {*self.public, *self.steps(version)}
            for name in sorted(control.loaded() - own):  # the version before, and what a killed build left
                if name.startswith(f"{self.name}_v"):
                    control.unload(name)
            self._prune(known[version])

    def mend(self) -> None:
        """Remove what a build that was killed left, and have both ensembles name one version: the one of the second."""
        with self.held():
            for folder in self.folder.parent.glob(f".{self.folder.name}.*"):
                shutil.rmtree(folder, ignore_errors=True)
            if (active := self.active()) is not None:
                self._point(active)
                self._prune(active)

    def _prune(self, active: Version) -> None:
        """Keep the version that answers, the one that a rollback goes back to, and three in all; remove the others."""
        known = list(self.versions())
        keep = {active.version, active.replaces, *known[-KEPT:]}
        for number in self._numbers() - keep:
            self.discard(number)
        for folder in (f for name in self.public for f in (self.folder / name).glob("[0-9]*")):
            if int(folder.name) not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    def previous(self) -> int:
        """Find the version that a rollback goes back to; raises `RiceError` where there is none."""
        active = self.active()
        if active is None or active.replaces is None or active.replaces not in self.versions():
            raise RiceError(f"{self.folder}: no earlier version to roll back to")
        return active.replaces

    def discard(self, version: int) -> None:
        """Remove a version that is not to answer."""
        for name in sorted(self.steps(version)):  # the classifier first: without it the version is incomplete
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _numbers(self) -> set[int]:
        """Find the numbers of all versions, also of one whose writing was cut off."""
        found = (re.match(rf"{re.escape(self.name)}_v(\d+)(?=$|_)", f.name) for f in self.folder.iterdir())
        return {int(match[1]) for match in found if match}

    def _write_version(self, staged: Path, made: Version, labels: Sequence[str], decision: Decision) -> None:
        """Write the folders of a version's models, but for the model itself."""
        decoder, classifier, postprocess = self.steps(made.version)
        for name, file in ((decoder, "decode.py"), (postprocess, "postprocess.py")):
            code = staged / name / "1"
            shutil.copytree(CONTRACT, code / "rice_lib" / "contract", ignore=shutil.ignore_patterns("__pycache__"))
            (code / "rice_lib" / "__init__.py").touch()
            shutil.copyfile(MODELS / file, code / "model.py")
        grain = drawn_grain()  # Triton's form of a string in a file: four bytes of length, and the string
        (staged / decoder / "warmup").mkdir()
        (staged / decoder / "warmup" / "grain").write_bytes(len(grain).to_bytes(4, "little") + grain)
        text = decision.to_json()
        write_json(staged / postprocess / "1" / DECISION_FILE, {"labels": list(labels), "decision": json.loads(text)})
        (staged / classifier / "1").mkdir(parents=True)
        for name in (classifier, postprocess):
            write_text(staged / name / LABELS_FILE, "".join(f"{label}\n" for label in labels))
        write_json(staged / classifier / VERSION_FILE, asdict(made))
        self._write_configs(staged, made, labels, text)

    def _write_configs(self, staged: Path, made: Version, labels: Sequence[str], decision: str) -> None:
        """Fill in the templates of `models/`."""
        decoder, classifier, postprocess = self.steps(made.version)
        values = asdict(made) | {
            "decoder": decoder, "classifier": classifier, "postprocess": postprocess,
            "pixels": self.name, "files": self.public[1],
            "size": IMAGE_SIZE, "features": len(FEATURES), "classes": len(labels),
            # as strings of a configuration: JSON's escapes are among protobuf's
            "labels": json.dumps(json.dumps(labels)), "decision": json.dumps(decision, ensure_ascii=False),
            "max_queue": MAX_QUEUE,
        }  # fmt: skip
        configs = {staged / decoder / CONFIG: "decode", staged / postprocess / CONFIG: "postprocess"}
        for name, template in zip(self.public, ("pixels", "files"), strict=True):
            configs[staged / classifier / ENSEMBLES / f"{name}.pbtxt"] = template
        for path, template in configs.items():
            write_text(path, _fill_in(template, values))
        for engine, file in (("onnxruntime", CONFIG), *VARIANTS.items()):
            write_text(staged / classifier / file, _fill_in("classifier", values) + _fill_in(engine, values))

    def _point(self, made: Version) -> None:
        """Give the ensembles the configurations of a version."""
        brought = self.classifier(made.version)
        for name in self.public:
            ensemble = self.folder / name
            # an ensemble's version has no files of its own, and Triton wants a folder
            write_json(ensemble / str(made.version) / VERSION_FILE, asdict(made))
            for source, file in ((LABELS_FILE, LABELS_FILE), (f"{ENSEMBLES}/{name}.pbtxt", CONFIG)):
                write_text(ensemble / file, (brought / source).read_text(encoding="utf-8"))


def write_repository(model: Path, folder: Path, name: str, max_batch: int) -> Repository:
    """Write a repository that answers with a model; see `Repository.add` and `Repository.switch`."""
    repository = Repository(folder, name)
    repository.switch(repository.add(model, max_batch).version)
    return repository


def drawn_grain() -> bytes:
    """Draw something like a grain on black as a JPEG: what a server is warmed up with, and classifies first."""
    image = Image.new("RGB", (250, 250))
    ImageDraw.Draw(image).ellipse((55, 95, 195, 155), fill=(214, 214, 220))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _fill_in(template: str, values: Mapping[str, object]) -> str:
    return Template((MODELS / f"{template}.pbtxt").read_text(encoding="utf-8")).substitute(values)
