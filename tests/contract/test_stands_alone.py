"""The folder `contract` copied out of the library works with numpy and Pillow alone, as a Triton server carries it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from support.corpus import encoded, ordinary

import rice_lib
from rice_lib.contract.decode import decode

FOLDER = Path(rice_lib.__file__).parent / "contract"

CODE = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import rice_lib
from rice_lib.contract.decode import BadImageError, configure_pillow, decode_with_notes
from rice_lib.contract.decision import Decision
from rice_lib.contract.prediction import predict
from rice_lib.contract.record import Record

configure_pillow()
records, sums = [], []
decision = Decision.from_json(Path(sys.argv[3]).read_text())
model = SimpleNamespace(labels=("a", "b"), decision=decision, logits=lambda pixels: np.float32([[0, 2]] * len(pixels)))
for file in sys.argv[4:]:
    try:
        pixels, notes = decode_with_notes(Path(file))
    except BadImageError as error:
        records.append(Record(Path(file).name, error=str(error)))
        continue
    sums.append(int(pixels.sum()))
    (prediction,) = predict(model, pixels[None])
    records.append(Record(Path(file).name, prediction, notes))
files = {name: str(getattr(module, "__file__", None) or "") for name, module in sys.modules.items()}
print(json.dumps({
    "records": [record.as_dict(2) for record in records],
    "sums": sums,
    "ours": sorted(name for name in files if name.split(".")[0] == "rice_lib"),
    "file": rice_lib.__file__,
    "packages": sorted({name.split(".")[0] for name, file in files.items() if file.startswith(sys.argv[2])}),
}))
"""


def packages(folder: Path) -> Path:
    """A folder that holds numpy and Pillow, with the libraries that their wheels bring, and nothing else."""
    folder.mkdir()
    for module in (np, PIL):
        place = Path(module.__file__).parent
        for path in (place, place.with_name(f"{'pillow' if module is PIL else place.name}.libs")):
            if path.exists():
                (folder / path.name).symlink_to(path)
    return folder


def test_the_copied_folder_decodes_and_predicts(tmp_path):
    (tmp_path / "version").mkdir()
    shutil.copytree(
        FOLDER, tmp_path / "version" / "rice_lib" / "contract", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "version" / "rice_lib" / "__init__.py").touch()
    (tmp_path / "decision.json").write_text('{"temperature": 2.0}')
    files = {
        "grain.jpg": ordinary()["jpeg.jpg"],
        "grey.png": encoded(Image.new("LA", (40, 30), (200, 90)), "PNG"),  # takes `colour`, which is imported late
        "page.jpg": b"<html></html>",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    # -S: site-packages are not looked at, nor what their .pth files import; -I: nor PYTHONPATH
    arguments = [tmp_path / "version", packages(tmp_path / "packages"), tmp_path / "decision.json"]
    command = [sys.executable, "-I", "-S", "-c", CODE, *arguments, *(tmp_path / name for name in files)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    score = round(1 / (1 + np.exp(-1)), 6)
    predicted = {"label": "b", "confidence": score, "scores": {"b": score, "a": round(1 - score, 6)}}
    assert found["records"] == [
        {"path": "grain.jpg", **predicted},
        {"path": "grey.png", **predicted},
        {"path": "page.jpg", "error": "not an image in a format that can be read: it begins with '<html></html>'"},
    ]
    assert found["sums"] == [int(decode(files[name]).sum()) for name in ("grain.jpg", "grey.png")]
    assert found["file"].startswith(str(tmp_path))
    assert set(found["ours"]) == {"rice_lib", "rice_lib.contract"} | {
        f"rice_lib.contract.{file.stem}" for file in FOLDER.glob("*.py") if file.stem != "__init__"
    }
    assert found["packages"] == ["PIL", "numpy"]
