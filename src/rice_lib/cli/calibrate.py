"""`rice calibrate`: fit a model's temperature and rejection rule, and write them into the model.

rice calibrate models/scratch/vit/random --profile scratch
rice calibrate models/rice-vit-tiny.onnx --profile scratch
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rice_lib.backends.open import open_predictor
from rice_lib.cli.arguments import positive, profile_parser
from rice_lib.common.run import Run
from rice_lib.data.loading import open_examples
from rice_lib.data.split import SCHEMES
from rice_lib.models.calibration import calibrate, write_decision


def main(argv: Sequence[str] | None = None, prog: str = "rice calibrate") -> int:
    """Run the command; returns its exit status."""
    options = parser(prog).parse_args(argv)
    run = Run.open(options.profile)
    training, validation = (open_examples(run.paths, options.scheme, part) for part in ("train", "validation"))
    with open_predictor(options.model) as predictor:
        decision = calibrate(predictor, training, validation, options.batch_size, run.params.seed)
    written = write_decision(options.model, decision)
    rejected = f"rejects {decision.about['validation_rejected']} of {len(validation):,} validation images"
    print(f"{written}: temperature {decision.temperature:.3f}, {rejected}")
    return 0


def parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    what = "Fit a model's temperature and rejection rule, and write them into the model. Its weights stay."
    command = profile_parser(prog, what)
    command.add_argument("model", type=Path, help="checkpoint directory, or .onnx file")
    command.add_argument("--scheme", default="random", choices=SCHEMES, help="the split it was trained on")
    command.add_argument("--batch-size", type=positive, default=32, help="images a call (default: %(default)s)")
    return command
