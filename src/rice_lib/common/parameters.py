"""Read the configuration of a run: a profile, `params/<profile>.yaml`, validated before anything runs.

An error is one `RiceError` that names the file, the key and the nearest right one.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rice_lib.common.errors import RiceError
from rice_lib.common.paths import find_root

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    """Every section is frozen, forbids unknown keys, converts no types, and takes finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class DataParams(_Section):
    """Where the images come from."""

    source: Literal["synthetic", "folder", "zip", "kaggle", "photographs"]
    path: str | None = None
    """The folder, zip or folder of photographs; `RICE_DATA` in the environment stands in where this is null."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """Folders that are classes, and no others; null takes every folder of images. Numbered in sorted order."""
    mm_per_pixel: Annotated[float, Field(gt=0)] | None = None
    """Scale of `photographs`, all taken from one distance."""
    reference_mm: Annotated[float, Field(gt=0)] | None = None
    """Or the diameter of a round object that lies in each; with neither, one scale is chosen for the whole set."""
    kaggle_dataset: str = "muratkokludataset/rice-image-dataset"
    per_class: Positive | None = None  # images to take of each variety (synthetic: to draw); null takes all
    workers: Positive | None = None  # processes that decode; null uses every core


class SplitParams(_Section):
    """How the images are divided."""

    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.2  # of what the test split leaves
    session_after: Positive = 11600
    """The `session` scheme tests on images numbered above this; Jasmine's second capture session begins at 11,720."""


class BaselineParams(_Section):
    """Frozen CNN and logistic regression."""

    model: str = "tf_efficientnet_lite0"  # of timm; the weights of this one are in a package, of others on a hub
    batch_size: Positive = 64
    regularisation_c: Annotated[float, Field(gt=0)] = 1.0
    max_train_images: Positive | None = None
    """Embed at most this many training images (stratified); null embeds all. The test split is never thinned."""


class ArchitectureParams(_Section):
    """Shape of a ViT trained from scratch; a pretrained one brings its own."""

    hidden_size: Positive = 192
    layers: Positive = 12
    heads: Positive = 3
    mlp_ratio: Positive = 4
    patch_size: Positive = 16
    stem_channels: Positive | None = None
    """Convolutions before the patches of an aligned frame, the first of this many channels; null has none."""
    stem_depth: Positive = 1
    """Convolutions at each of the three resolutions before the patches."""


class AugmentationParams(_Section):
    """Random changes to training images that leave the variety as it is, drawn for each image and epoch.

    Sizes `s` of `scale`, `stretch`, `gamma` and `channel_gain` mean a factor that is log-uniform between 1 / (1 + s)
    and 1 + s. At 0 (`flip`: false, `jpeg_quality`: null) an ingredient is off.
    """

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 180.0
    flip: bool = True
    scale: Annotated[float, Field(ge=0, le=1)] = 0.05
    stretch: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Of one direction against the one across it, any direction: the area stays."""
    shift: Annotated[float, Field(ge=0, lt=0.5)] = 0.03  # of the image's side
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.05  # gain of all channels: uniform between 1 - b and 1 + b
    channel_gain: Annotated[float, Field(ge=0, le=1)] = 0.0  # gain of each channel by itself: another white balance
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.0
    greyscale: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the images that lose their colour
    background: Annotated[float, Field(ge=0, lt=1)] = 0.0  # highest level of the background, as a share of white
    blur: Annotated[float, Field(ge=0, le=10)] = 0.0  # largest standard deviation in pixels, of half of the images
    noise: Annotated[float, Field(ge=0, le=64)] = 0.0
    """Largest standard deviation in grey levels, of half of the images."""
    jpeg_quality: Annotated[int, Field(ge=10, le=95)] | None = None
    """Lowest quality at which half of the images are compressed once more."""


class FinetuneParams(_Section):
    """The ViT and its training."""

    model: str = "google/vit-base-patch16-224-in21k"
    """A hub name, a local directory, `shipped` (the weights in models/rice-vit-tiny), or `scratch`."""
    architecture: ArchitectureParams | None = None  # for `scratch` alone
    foreground_patches: Positive | None = None
    """Attend to this many brightest patches only; null is the ordinary dense ViT."""
    aligned_frame: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """Height and width in pixels, multiples of the patch size, of the frame that the grain is first laid into
    (`backends.align`); null leaves the image as it is."""
    grain_features: bool = False
    """Let the head read the grain's size, outline, colour and texture too (`backends.grain_features`). It is then a
    linear discriminant before the training begins: what a few dozen images a class are enough for."""
    schemes: Annotated[list[Literal["random", "session"]], Field(min_length=1)] = ["random"]
    """Train one model on each of these splits; the first is the one exported and served."""
    epochs: Annotated[float, Field(gt=0)] = 6
    batch_size: Positive = 128
    eval_batch_size: Positive = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """What a step keeps of the moving average of the weights, which then is the model; null takes the last weights."""
    early_stopping_patience: Positive = 3  # epochs without a lower validation loss before training stops
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the GPU has it, else float32."""
    compile: bool = False
    threads: Positive | None = None
    """CPU threads of torch from training on; null uses every core. The operations of a small model on a small batch are
    too short to share: two threads wait for each other longer than they compute."""
    workers: Annotated[int, Field(ge=0)] = 0
    augmentation: AugmentationParams = AugmentationParams()


class ExportParams(_Section):
    """ONNX."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    """From 20 on, Gelu is one operator, which ONNX Runtime fuses with its bias."""
    calibration_images: Positive = 128
    """Training images that the 8-bit form is calibrated on."""
    parity_images: Positive = 16  # N of the parity check at batches 1, 3 and N, on test images
    tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Largest allowed absolute difference of a logit between torch and float32 ONNX."""
    half_tolerance: Annotated[float, Field(gt=0)] = 5e-2


class BenchmarkParams(_Section):
    """Latency and throughput."""

    batch_sizes: Annotated[list[Positive], Field(min_length=1)] = [1, 8, 32]
    repeats: Positive = 20
    warmup: Annotated[int, Field(ge=0)] = 3
    images: Positive = 256  # test images on which the engines' labels are compared
    seconds_per_point: Annotated[float, Field(gt=0)] = 2.0
    """A measured point stops at `repeats` or at this many seconds, whichever is first, but never below 5 calls."""
    compile_limit_s: Annotated[float, Field(ge=0)] = 120.0
    """How long torch.compile may take until its first results: it compiles again on every machine. 0 leaves it out."""


class ServeParams(_Section):
    """Triton."""

    url: str | None = None
    """host:port of a running server's HTTP endpoint (gRPC is the next port up); null starts one from the wheel."""
    model_name: str = "rice"
    max_batch_size: Positive = 32
    ready_timeout_s: Positive = 60


class StudyParams(_Section):
    """The notebooks under `notebooks/studies/`."""

    enabled: bool = False
    seeds: Positive = 5
    """Trainings of each row: other random weights and, where images are drawn, other images."""
    train_images: Positive = 6000  # at most; drawn from the training part of a split, stratified
    test_images: Positive = 1000  # at most, of each test
    steps: Positive = 150  # of 128 images, of a small network
    sizes: Annotated[list[Positive], Field(min_length=1)] = [50, 200, 1000]
    """Training images along a learning curve, before the last point, all of `train_images`."""
    shots: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 10, 30, 100, 300]
    """Labelled images of the session never seen that are added to training."""
    models: dict[str, str] = {}
    """Models to compare with the run's own: what people call it, to its file."""


class TrackingParams(_Section):
    """MLflow."""

    uri: str | None = None  # a server's URI; null keeps an SQLite database in mlruns/
    experiment: str = "rice"


class Params(_Section):
    """One profile."""

    profile: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """The name of its file, which names the folders of the run."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 83
    data: DataParams
    split: SplitParams = SplitParams()
    baseline: BaselineParams = BaselineParams()
    finetune: FinetuneParams = FinetuneParams()
    export: ExportParams = ExportParams()
    benchmark: BenchmarkParams = BenchmarkParams()
    serve: ServeParams = ServeParams()
    study: StudyParams = StudyParams()
    tracking: TrackingParams = TrackingParams()

    def fingerprint(self, *sections: str, exclude: Any = None) -> str:
        """Compute the first 16 hex digits of the sha256 of the named sections (all, where none is named).

        `exclude` leaves values out, as pydantic's `model_dump` takes it.
        """
        values = self.model_dump(mode="json", include=set(sections) if sections else None, exclude=exclude)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def profile_file(profile: str) -> Path:
    """Give the YAML file of a profile: `params/<profile>.yaml`, or the path itself where it ends in .yaml or .yml."""
    if profile.endswith((".yaml", ".yml")):
        return Path(profile)
    return find_root() / "params" / f"{profile}.yaml"


def load_params(profile: str, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read and validate a profile. Its name is its file's; the key `profile` in the file is for papermill's `-f`.

    Args:
        profile: a name under `params/`, or the path of a YAML file.
        overrides: nested values merged over the file's, `{"finetune": {"epochs": 1}}`; None at the top leaves a section
            as it is.

    Raises:
        RiceError: no such profile, not YAML, or a key or value that is wrong; all wrong ones are named.
    """
    file = profile_file(profile)
    values = _merge(_read_yaml(file), {k: v for k, v in (overrides or {}).items() if v is not None})
    if (said := values.get("profile", file.stem)) != file.stem:
        note = f"note: {file} says profile: {said}; its name counts, {file.stem}. Correct the line (make report does)"
        print(f"{note}, or papermill -f runs that profile", file=sys.stderr)
    try:
        return Params.model_validate({**values, "profile": file.stem})
    except ValidationError as error:
        raise RiceError(_explain(error, file)) from None


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `["finetune.epochs=1", "data.path=/x.zip"]` into nested values; the right side is read as YAML.

    Raises `RiceError` for an assignment without `=`, a right side that is not YAML, or two assignments that contradict.
    """
    nested: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            hint = """section.key=value, and what has spaces in quotes: SET="data.path='/my images/rice.zip'\""""
            raise RiceError(f"--set {assignment}: write it as {hint}")
        try:
            value = yaml.load(text, _Loader)
        except (yaml.YAMLError, ValueError):
            raise RiceError(f"--set {assignment}: the value is not valid YAML") from None
        if isinstance(value, str):
            if text.startswith(value):
                value = text.strip()  # no comment begins at a #: it belongs to a path
            with contextlib.suppress(ValueError):  # YAML 1.1, which PyYAML reads, takes 1e-4 for a string
                value = float(value)
        for part in reversed(key.split(".")):
            value = {part: value}
        try:
            nested = _merge(nested, value, strict=True)
        except ValueError as error:
            raise RiceError(f"--set {assignment}: {error} is a section in one --set and a value in another") from None
    return nested


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        known = sorted(p.stem for p in file.parent.glob(f"*{file.suffix}"))
        hint = _nearest(file.stem, known) if known else f"; {file.parent.resolve()} holds no {file.suffix} files"
        raise RiceError(f"{file}: no such profile{hint}")
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise RiceError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise RiceError(f"{file}: a profile is a mapping of sections, this is {type(values).__name__}")
    return values


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], strict: bool = False) -> dict[str, Any]:
    """Lay values over others, section by section; `strict` raises ValueError where a section meets a value."""
    merged = dict(base)
    for key, value in over.items():
        sections = [isinstance(each, Mapping) for each in (value, merged.get(key, value))]
        if strict and any(sections) != all(sections):
            raise ValueError(key)
        merged[key] = _merge(merged[key], value, strict) if key in merged and all(sections) else value
    return merged


def _explain(error: ValidationError, file: Path) -> str:
    """Write one line: every wrong key with what is wrong, and the nearest right name for an unknown one."""
    faults = []
    for fault in error.errors():
        where = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            faults.append(f"{where}: unknown key{_nearest(str(fault['loc'][-1]), _keys_at(fault['loc'][:-1]))}")
        else:
            got = "" if fault["type"] == "missing" else f", not {fault['input']!r}"
            faults.append(f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}{got}")
    return f"{file}: " + "; ".join(faults)


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """List the keys of a section, which may be optional."""
    model: Any = Params
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        model = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    return list(model.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
