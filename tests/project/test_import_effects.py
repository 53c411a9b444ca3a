"""Importing the library changes nothing for the program that imports it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STATE = """
import importlib, json, logging, os, pkgutil, signal, sys, threading, warnings

def state():
    import numpy as np
    from PIL import Image
    found = {
        "Image.MAX_IMAGE_PIXELS": Image.MAX_IMAGE_PIXELS,
        "Pillow's blocks": Image.core.get_blocks_max(),
        "warning filters": [repr(entry) for entry in warnings.filters],
        "environment": dict(os.environ),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "logging": [logging.root.level, repr(logging.root.handlers), repr(logging.getLogger("PIL").handlers)],
        "numpy's errors": repr(np.geterr()),
    }
    if "cv2" in sys.modules:
        found["OpenCV's threads"] = sys.modules["cv2"].getNumThreads()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        found["torch"] = [torch.get_num_threads(), torch.is_grad_enabled(), str(torch.get_default_dtype())]
    if "transformers" in sys.modules:
        from transformers.utils import logging as of_transformers
        found["transformers"] = [of_transformers.is_progress_bar_enabled(), of_transformers.get_verbosity()]
    if "matplotlib" in sys.modules:
        found["matplotlib"] = {key: repr(value) for key, value in sys.modules["matplotlib"].rcParams.items()}
    return found
"""

NAMES = """
import rice_lib
# packages inside serving run in the server, and import what only the server has
apart = ("rice_lib.__main__", "rice_lib.serving.models", "rice_lib.serving.backend")
names = [m.name for m in pkgutil.walk_packages(rice_lib.__path__, "rice_lib.") if not m.name.startswith(apart)]
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", STATE + code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_importing_what_predicts_leaves_pillow_and_warnings_alone():
    code = """
before = state()
import rice_lib.infer, rice_lib.predict.pipeline, rice_lib.cli.explain, rice_lib.contract.colour
print(json.dumps([key for key, value in state().items() if before[key] != value]))
"""
    assert json.loads(run(code)) == []


@pytest.mark.slow
def test_importing_any_module_changes_nothing():
    """The libraries that ours imports are imported first: what they change is theirs."""
    theirs = run(
        f"""{NAMES}
for name in names:
    importlib.import_module(name)
print(json.dumps([m for m in sys.modules if m.split(".")[0] not in ("rice_lib", "__main__")]))
"""
    )
    code = f"""
for name in json.loads(sys.stdin.read()):
    try:
        importlib.import_module(name)
    except Exception:  # a private part that only its own package can import
        continue
before = state()
{NAMES}
for name in names:
    importlib.import_module(name)
print(json.dumps([key for key, value in state().items() if before.get(key) != value]))
"""
    done = subprocess.run(
        [sys.executable, "-c", STATE + code], input=theirs, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
