"""Where a run keeps things: the only module that knows a folder's name.

`find_root` finds the checkout from wherever a notebook or command was started; `Paths` names every file that a stage
reads or writes. Nothing here creates a folder: whoever writes does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rice_lib.common.errors import RiceError

NOTEBOOKS = (
    "01_eda",
    "02_split",
    "03_baseline",
    "04_vit_finetune",
    "05_export",
    "06_trt_benchmark",
    "07_triton_smoke",
)
"""The stages, in order."""


def find_root(start: Path | None = None) -> Path:
    """The checkout's root: `RICE_ROOT` if set, else the nearest folder at or above `start` (the working directory)
    that holds `params/` and `notebooks/`.

    Raises:
        RiceError: there is none.
    """
    if named := os.environ.get("RICE_ROOT"):
        return Path(named).resolve()
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "params").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise RiceError(f"{here}: not inside a checkout of the project; go there, or name it in RICE_ROOT")


@dataclass(frozen=True)
class Paths:
    """Every file of one profile's run, below `root`."""

    root: Path
    profile: str

    @classmethod
    def of(cls, profile: str) -> Paths:
        """The paths of a profile in the checkout we are in."""
        return cls(find_root(), profile)

    # data: written by 01 and 02
    @property
    def data(self) -> Path:
        """`data/<profile>/`."""
        return self.root / "data" / self.profile

    @property
    def images(self) -> Path:
        """Images made, unpacked or downloaded: `<Variety>/<name>.jpg`. A `folder` source is read where it lies."""
        return self.data / "images"

    @property
    def manifest(self) -> Path:
        """One row an image (CSV)."""
        return self.data / "manifest.csv"

    @property
    def labels(self) -> Path:
        """`labels2id` and `id2labels` (JSON)."""
        return self.data / "labels.json"

    @property
    def cache(self) -> Path:
        """Decoded pixels: `pixels.npy`, uint8 `[rows of the manifest, 224, 224, 3]`, memory-mapped."""
        return self.data / "cache"

    def split(self, scheme: str) -> Path:
        """The split file of a scheme (CSV: path, label, split), absent where the images do not allow the scheme."""
        return self.data / "splits" / f"{scheme}.csv"

    # models: written by 03, 04, 05, 07
    @property
    def models(self) -> Path:
        """`models/<profile>/`."""
        return self.root / "models" / self.profile

    @property
    def baseline(self) -> Path:
        """The baselines: safetensors and JSON, one pair a classifier and scheme."""
        return self.models / "baseline"

    def checkpoint(self, scheme: str) -> Path:
        """The fine-tuned ViT: a transformers directory (`config.json`, `model.safetensors`)."""
        return self.models / "vit" / scheme

    @property
    def training(self) -> Path:
        """Trainer checkpoints of a training run under way; gone when it has finished. Not a DVC output."""
        return self.models / "training"

    @property
    def onnx(self) -> Path:
        """`model.onnx` (float32) and `model_fp16.onnx`."""
        return self.models / "onnx"

    @property
    def engines(self) -> Path:
        """TensorRT plans and their manifests."""
        return self.models / "engines"

    @property
    def repository(self) -> Path:
        """Triton's model repository as notebook 07 makes and tests it."""
        return self.models / "repository"

    @property
    def server(self) -> Path:
        """State and log of the server that notebook 07 starts."""
        return self.models / "server"

    @property
    def service(self) -> Path:
        """What `rice serve` keeps: a repository with every version that was in service, the server's state and log."""
        return self.models / "service"

    # reports: written by every notebook
    @property
    def report(self) -> Path:
        """`reports/<profile>/`."""
        return self.root / "reports" / self.profile

    def notebook(self, name: str) -> Path:
        """The executed notebook."""
        return self.report / "notebooks" / f"{name}.ipynb"

    def metrics(self, name: str) -> Path:
        """What the notebook recorded (JSON)."""
        return self.report / "metrics" / f"{name}.json"

    def figure(self, notebook: str, name: str) -> Path:
        """A figure that the report shows outside its notebook too."""
        return self.report / "figures" / notebook / f"{name}.png"

    def predictions(self, model: str, scheme: str) -> Path:
        """A model's predictions on the test images of a scheme (CSV: path, label, predicted, one score a variety)."""
        return self.report / "predictions" / model / f"{scheme}.csv"

    # shared by all profiles
    @property
    def mlruns(self) -> Path:
        """MLflow's database and artifacts."""
        return self.root / "mlruns"

    def relative(self, path: Path) -> str:
        """A path as it is written into files: relative to the root where it lies below it, POSIX."""
        path = path.resolve()
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()
