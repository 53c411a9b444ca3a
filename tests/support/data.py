"""Small image folders, archives and runs for the tests of rice_lib.data."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rice_lib.common.parameters import DataParams, Params, SplitParams
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.data import synthetic
from rice_lib.data.synthetic import VARIETIES


def grain(variety: str = "Arborio", number: int = 1) -> bytes:
    return synthetic.jpeg(variety, number, per_class=100, seed=5)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def images(per_class: int) -> dict[str, bytes]:
    """Path to bytes of a small, sound set."""
    return {f"{v}/{v} ({n}).jpg": grain(v, n) for v in VARIETIES for n in range(1, per_class + 1)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def archive(file: Path, files: dict[str, bytes], prefix: str = "Rice_Image_Dataset/") -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr(f"{prefix}Rice_Citation_Request.txt", "please cite")
        for name, data in files.items():
            target.writestr(prefix + name, data)
    return file


def make_run(root: Path, session_after: int = 3, seed: int = 83, **data: object) -> Run:
    params = Params(profile="test", seed=seed, data=DataParams(**data), split=SplitParams(session_after=session_after))
    return Run(params, Paths(root, "test"))


def real_images() -> Path:
    """The zip or folder that RICE_DATA names; skips, saying so, where it names none."""
    named = os.environ.get("RICE_DATA")
    if not named:
        pytest.skip("RICE_DATA names no real images")
    return Path(named)
