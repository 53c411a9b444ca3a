"""A new version into service: loaded beside the one that answers, checked on the server, then switched to.

A version that fails its check never gets a public name: it is removed, and the one before still answers.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress

import numpy as np

from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import IMAGE_SIZE, decode
from rice_lib.serving.control import Control
from rice_lib.serving.repository import FILE, INPUT, OUTPUT, Repository, Version, drawn_grain
from rice_lib.serving.server import RunningServer

TOLERANCE, GPU_TOLERANCE = 1e-3, 5e-2
"""Largest allowed difference of a logit from ONNX Runtime in this process: a GPU rounds its products."""

SEED = 83


def release(repository: Repository, made: Version, server: RunningServer | None) -> None:
    """Check a version, then have it answer, on the `server` too, where one runs.

    Raises `RiceError` where it does not load or gives other logits: it is removed, and the one before answers.
    """
    with repository.held(), _connect(server) as control:
        steps = repository.steps(made.version)
        try:
            with open_predictor(repository.classifier(made.version) / "1" / "model.onnx") as model:
                if control is not None:
                    for name in steps:
                        control.load(name)
                    _check_served(control, steps, made.max_batch, model)
                elif not np.isfinite(model.logits(random_images(np.random.default_rng(SEED), 2))).all():
                    raise RiceError("its logits are not finite")
        except RiceError as error:
            if control is not None:
                for name in steps:
                    with suppress(RiceError):  # it may be what failed; the first error is the one that counts
                        control.unload(name)
            repository.discard(made.version)
            raise RiceError(f"version {made.version} is not taken into service: {error}", 1) from None
        repository.switch(made.version, control)


def roll_back(repository: Repository, server: RunningServer | None) -> Version:
    """Have the version before answer again; raises `RiceError` where there is none, or the server cannot load it."""
    with repository.held(), _connect(server) as control:
        version = repository.previous()
        repository.switch(version, control)
        return repository.versions()[version]


def random_images(random: np.random.Generator, count: int) -> np.ndarray:
    """Draw uint8 `[count, 224, 224, 3]`: a fault in a server's hand-over of arrays can pass unseen on constants."""
    return random.integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)


def _connect(server: RunningServer | None) -> Control | nullcontext[None]:
    return nullcontext() if server is None else Control(server)


def _check_served(control: Control, steps: tuple[str, str, str], max_batch: int, model: Predictor) -> None:
    decoder, classifier, postprocess = steps
    on_gpu = any(group["kind"] == "KIND_GPU" for group in control.config(classifier)["instance_group"])
    tolerance = GPU_TOLERANCE if on_gpu else TOLERANCE
    for batch in sorted({1, min(3, max_batch), max_batch}):
        pixels = random_images(np.random.default_rng(SEED), batch)
        served = control.infer(classifier, **{INPUT: pixels}).as_numpy(OUTPUT)
        difference = float(np.abs(served - model.logits(pixels)).max())
        if not difference <= tolerance:  # so that NaN fails, too
            raise RiceError(f"its logits differ by {difference:g} from the model's, batch {batch}")
    grain = drawn_grain()
    decoded = control.infer(decoder, **{FILE: np.array([[grain]], np.object_)})
    images = decoded.as_numpy(INPUT)
    if not np.array_equal(images[0], decode(grain)):
        raise RiceError("the server decodes to other pixels; make its environment again (make serve-env)")
    columns = {name: decoded.as_numpy(name) for name in ("features", "notes", "error")}
    logits = control.infer(classifier, **{INPUT: images}).as_numpy(OUTPUT)
    scores = control.infer(postprocess, **{OUTPUT: logits, **columns}).as_numpy("scores")
    if not np.allclose(scores.sum(axis=1), 1, atol=1e-5):
        raise RiceError("its scores do not sum to 1")
