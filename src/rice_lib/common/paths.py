"""Name every file that a stage reads or writes. Nothing here creates a folder: whoever writes does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rice_lib.common.errors import RiceError

NOTEBOOKS = ("01_eda", "02_split", "03_baseline", "04_vit_finetune", "05_export", "06_trt_benchmark", "07_triton_smoke")
"""The stages, in order."""

STUDIES = (
    "studies/01_robustness",
    "studies/02_learning_curves",
    "studies/03_ingredients",
    "studies/04_synthetic_to_real",
    "studies/05_leakage",
    "studies/06_frontier",
)
"""Notebooks of a question each, which run after `04_vit_finetune` where a profile has `study.enabled`."""


def find_root(start: Path | None = None) -> Path:
    """Find the checkout: `RICE_ROOT`, else the nearest folder at or above `start` with `params/` and `notebooks/`.

    Raises `RiceError` where `start` (the working directory) is in none.
    """
    if named := os.environ.get("RICE_ROOT"):
        return Path(named).resolve()
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "params").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise RiceError(f"{here}: not inside a checkout of the project; go there, or name it in RICE_ROOT")


def _place(place: str) -> Any:
    """Make a path of `Paths`: below the root, with the profile's name in it."""
    return property(lambda paths: paths.root / place.format(profile=paths.profile))


@dataclass(frozen=True)
class Paths:
    """Every file of one profile's run, below `root`."""

    root: Path
    profile: str

    @classmethod
    def of(cls, profile: str) -> Paths:
        """Make the paths of a profile in the checkout we are in."""
        return cls(find_root(), profile)

    data = _place("data/{profile}")
    images = _place("data/{profile}/images")  # made, unpacked or downloaded; a `folder` is read where it lies
    manifest = _place("data/{profile}/manifest.csv")  # one row an image
    labels = _place("data/{profile}/labels.json")  # `labels2id` and `id2labels`
    cache = _place("data/{profile}/cache")  # `pixels.npy`, uint8 `[rows of the manifest, 224, 224, 3]`

    def split(self, scheme: str) -> Path:
        """Name the split file of a scheme (path, label, split), absent where the images do not allow it."""
        return self.data / "splits" / f"{scheme}.csv"

    models = _place("models/{profile}")
    training = _place("models/{profile}/training")  # Trainer checkpoints of a run under way; not a DVC output
    onnx = _place("models/{profile}/onnx")  # `model.onnx` (float32) and `model_fp16.onnx`
    engines = _place("models/{profile}/engines")  # TensorRT plans and their manifests
    repository = _place("models/{profile}/repository")  # Triton's, as notebook 07 makes and tests it
    server = _place("models/{profile}/server")  # state and log of the server that notebook 07 starts
    service = _place("models/{profile}/service")  # of `rice serve`: every version's repository, state and log

    def checkpoint(self, scheme: str) -> Path:
        """Name the folder of a fine-tuned ViT: a transformers directory (`config.json`, `model.safetensors`)."""
        return self.models / "vit" / scheme

    report = _place("reports/{profile}")

    def notebook(self, name: str) -> Path:
        """Name the executed notebook; a study's lies beside its metrics, in `reports/<profile>/studies/<study>`."""
        return self.report / (f"{name}/notebook.ipynb" if name in STUDIES else f"notebooks/{name}.ipynb")

    def metrics(self, name: str) -> Path:
        """Name what the notebook recorded (JSON)."""
        return self.report / (f"{name}/metrics.json" if name in STUDIES else f"metrics/{name}.json")

    def figure(self, notebook: str, name: str) -> Path:
        """Name a figure that the report shows outside its notebook too: photographs are .jpg, drawings .svg."""
        photographs = self.report / "figures" / notebook / f"{name}.jpg"
        return photographs if photographs.is_file() else photographs.with_suffix(".svg")

    def predictions(self, model: str, scheme: str) -> Path:
        """Name the file of a model's predictions on the test images of a scheme (see `models.metrics`)."""
        return self.report / "predictions" / model / f"{scheme}.csv"

    # shared by all profiles
    mlruns = _place("mlruns")  # MLflow's database and artifacts

    def run(self, notebook: str) -> str:
        """Say in an error how to run a notebook: by itself, or as a stage of this profile."""
        return f"run notebook {notebook} (make report PROFILE={self.profile})"

    def relative(self, path: Path) -> str:
        """Write a path as it is kept in files: relative to the root where it lies below it, POSIX."""
        path = path.resolve()
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()
