"""`rice train`: the training of notebook 04 without the notebook, by as many processes as accelerate starts.

accelerate launch --num_processes 8 -m rice_lib train random --profile full
rice stage 04_vit_finetune --profile full    # takes what was trained, and evaluates it
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rice_lib.cli.arguments import profile_parser
from rice_lib.common.parameters import parse_overrides
from rice_lib.common.run import Run
from rice_lib.data.split import SCHEMES


def main(argv: Sequence[str] | None = None, prog: str = "rice train") -> int:
    """Run the command; returns its exit status."""
    options = parser(prog).parse_args(argv)
    run = Run.open(options.profile, **parse_overrides(options.set))

    from transformers import set_seed

    from rice_lib.common.classes import read_classes
    from rice_lib.models.finetune import train, training_arguments
    from rice_lib.models.vit import create_model

    set_seed(run.params.seed)
    model = create_model(run.params.finetune, read_classes(run.paths))
    arguments = training_arguments(run, options.scheme)
    result = train(run, options.scheme, model, arguments)
    if not arguments.process_index:
        speed = f"{result.seconds:.0f} s, {result.images_per_second:.0f} images/s"
        folder = run.paths.relative(run.paths.checkpoint(options.scheme))
        print(f"{folder}: {speed}, {arguments.world_size} processes; validation loss {result.best_validation_loss:.4f}")
    return 0


def parser(prog: str = "rice train") -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    command = profile_parser(prog, "Train the ViT of a profile on one split.")
    command.add_argument("scheme", choices=SCHEMES, help="split to train on")
    what = "override a parameter, as for the notebook that follows; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=what)
    return command
