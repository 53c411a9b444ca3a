"""What the benchmarks compare with, each in a process of its own as a person would run it.

    python benchmarks/alternatives.py pipeline DIRECTORY BATCH IMAGE [IMAGE ...]
    python benchmarks/alternatives.py onnxruntime MODEL BATCH IMAGE [IMAGE ...]

`pipeline` is `transformers.pipeline` as its documentation has it; `onnxruntime` is the bare session on images that
were decoded before: what no command can beat. The last line printed is the seconds that the images took, without
start-up.
"""

from __future__ import annotations

import sys
import time


def pipeline(model: str, batch: int, images: list[str]) -> float:
    """Time `transformers.pipeline` on the images, decoding included; seconds."""
    from transformers import pipeline as make_pipeline

    classify = make_pipeline("image-classification", model=model)
    started = time.perf_counter()
    for prediction in classify(images, batch_size=batch):
        print(prediction[0]["label"])
    return time.perf_counter() - started


def onnxruntime(model: str, batch: int, images: list[str]) -> float:
    """Time ONNX Runtime on the decoded images; seconds."""
    import numpy as np

    from rice_lib.backends.open import open_predictor
    from rice_lib.contract.decode import decode

    pixels = np.stack([decode(image) for image in images])
    with open_predictor(model) as predictor:
        predictor.logits(pixels[:batch])  # the first call takes the memory that later ones have
        started = time.perf_counter()
        for start in range(0, len(pixels), batch):
            predictor.logits(pixels[start : start + batch])
        return time.perf_counter() - started


if __name__ == "__main__":
    if len(sys.argv) < 5 or sys.argv[1] not in ("pipeline", "onnxruntime"):
        sys.exit(__doc__)
    alternative, model, batch, *images = sys.argv[1:]
    print({"pipeline": pipeline, "onnxruntime": onnxruntime}[alternative](model, int(batch), images))
