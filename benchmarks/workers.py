"""Compare two workers of one core each with one: `rice infer --engine ray`, and training by accelerate's processes.

    python benchmarks/workers.py --images FOLDER --output FILE.json

Both arms run in turn, so that other work on the machine slows both. Beside them the machine's own ceiling is measured:
the same work by two processes of one core each that know nothing of each other, against one of them alone. For Ray, a
cluster of as many CPUs is started before each run and is not counted; the command's own start and its workers' is, and
is measured once more with a single file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from common import Ratio, add_number, call, parser, photographs, python, ratio, run, span
from tqdm import tqdm

from rice_lib.common.errors import run_command
from rice_lib.common.files import read_json
from rice_lib.common.paths import find_root
from rice_lib.models.vit import SHIPPED

WORKERS = (1, 2)
PORT = 6391
PROFILE = """
seed: 83
data: {{source: synthetic, per_class: {per_class}}}
finetune: {{model: shipped, epochs: {epochs}, batch_size: 32, learning_rate: 3.0e-4, weight_decay: 0.05}}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, files=8192, runs=2)
    add_number(command, "--per-class", 200, "generated images a variety to train on")
    add_number(command, "--epochs", 2, "epochs")
    command.add_argument("--only", choices=("ray", "training"), help="measure one of the two")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time both arms in turn: seconds a run, their ratios, and the trainings' validation losses."""
    found: dict[str, Any] = {"runs": arguments.runs}
    if arguments.only != "training":
        files = photographs(arguments, folder)
        names, single = folder / "names.txt", folder / "single.txt"
        # each photograph as often as it takes: a worker's share is 1,024 files
        again = -(-arguments.files // len(files))
        names.write_text("\n".join(map(str, (files * again)[: arguments.files])))
        single.write_text(str(files[0]))
        seconds = _in_turn(arguments.runs, "ray", lambda workers: _predict(names, workers))
        starts = _in_turn(arguments.runs, "ray, a single file", lambda workers: _predict(single, workers))
        bare = {n: [t - s for t, s in zip(seconds[n], starts[n], strict=True)] for n in WORKERS}
        found["ray"] = {
            "files": arguments.files, "seconds": seconds, "ratio": ratio(seconds[1], seconds[2]),
            "start_seconds": starts, "ratio_without_start": ratio(bare[1], bare[2]),
            "ceiling": _ceiling(arguments.runs, lambda core: _predict_alone(names, core)),
        }  # fmt: skip
    if arguments.only != "ray":
        root = _prepare(folder, arguments)
        results = _in_turn(arguments.runs, "training", lambda processes: _train(root, processes))
        seconds = {number: [each["seconds"] for each in runs] for number, runs in results.items()}
        losses = {number: [each["best_validation_loss"] for each in runs] for number, runs in results.items()}
        roots = [root, shutil.copytree(root, folder / "second", symlinks=True)]
        found["training"] = {
            "seconds": seconds, "ratio": ratio(seconds[1], seconds[2]), "validation_loss": losses,
            "ceiling": _ceiling(arguments.runs, lambda core: _train(roots[core], 1)["seconds"]),
        }  # fmt: skip
    return found


def _in_turn(runs: int, title: str, one: Any) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {workers: [] for workers in WORKERS}
    with tqdm(total=runs * len(WORKERS), desc=title, unit="run", leave=False) as progress:
        for _ in range(runs):
            for workers in WORKERS:
                found[workers].append(one(workers))
                progress.update()
    return found


def _ceiling(runs: int, job: Callable[[int], float]) -> Ratio:
    """Compute how many times the work of one `job` two of them do at once, which take the numbers 0 and 1."""
    with ThreadPoolExecutor(2) as pool:
        pairs = [(job(0), max(pool.map(job, (0, 1)))) for _ in tqdm(range(runs), desc="ceiling", leave=False)]
    alone, at_once = zip(*pairs, strict=True)
    return ratio([2 * seconds for seconds in alone], at_once)


def _predict_alone(names: Path, core: int) -> float:
    """Classify the files by a process that keeps to one core: seconds of the command."""
    command = python("-m", "rice_lib.infer", "-", "--threads", "1", "--format", "jsonl")
    with names.open() as stdin:
        return call("rice infer", command, stdin=stdin, preexec_fn=lambda: os.sched_setaffinity(0, {core}))[2]


def _predict(names: Path, workers: int) -> float:
    """Classify the files by so many workers of a fresh cluster: seconds of the command."""
    # Ray's workers are nice by 15 otherwise, which on a busy machine measures the others
    environment = {**os.environ, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    ray = str(Path(sys.executable).with_name("ray"))
    start = [ray, "start", "--head", f"--port={PORT}", f"--num-cpus={workers}", "--include-dashboard=false"]
    call("ray start", start, env=environment)
    try:
        line = [sys.executable, "-m", "rice_lib.infer", "-", "--engine", "ray", "--threads", "1"]
        line += ["--format", "jsonl"]
        with names.open() as stdin:
            return call("rice infer", line, env={**environment, "RAY_ADDRESS": "auto"}, stdin=stdin)[2]
    finally:
        call("ray stop", [ray, "stop", "--force"], env=environment)


def _prepare(folder: Path, arguments: argparse.Namespace) -> Path:
    """Make a root with a profile of its own, its images and their split."""
    root = folder / "root"
    for name in ("params", "notebooks", "models"):
        (root / name).mkdir(parents=True)
    (root / SHIPPED).symlink_to(find_root() / SHIPPED)
    values = {"per_class": arguments.per_class, "epochs": arguments.epochs}
    (root / "params/workers.yaml").write_text(PROFILE.format(**values))
    code = "from rice_lib.common.run import Run; from rice_lib.data import manifest, split; "
    code += "run = Run.open('workers'); manifest.build(run); split.make(run)"
    call("the preparation", python("-c", code), env={**os.environ, "RICE_ROOT": str(root)})
    return root


def _train(root: Path, processes: int) -> dict[str, Any]:
    """Train by so many processes of one thread each, from the start: what the training recorded of itself."""
    environment = {**os.environ, "RICE_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    call("rice train", [*launch, "-m", "rice_lib", "train", "random", "--profile", "workers"], env=environment)
    facts = read_json(root / "models/workers/vit/random/provenance.json")
    shutil.rmtree(root / "models/workers")
    return facts


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as a table for people."""
    rows = [
        {
            "what": name, "one worker, s": f"{statistics.median(found[name]['seconds'][1]):.1f}",
            "two workers, s": f"{statistics.median(found[name]['seconds'][2]):.1f}",
            "one / two": span(found[name]["ratio"]), "the machine's ceiling": span(found[name]["ceiling"]),
        }
        for name in ("ray", "training") if name in found
    ]  # fmt: skip
    start = [f"ray without its start: {span(found['ray']['ratio_without_start'])}"] if "ray" in found else []
    losses = found.get("training", {}).get("validation_loss", {})
    lines = [f"validation loss, {n} processes: {', '.join(f'{v:.4f}' for v in each)}" for n, each in losses.items()]
    return "\n".join([pd.DataFrame(rows).to_string(index=False), *start, *lines])


if __name__ == "__main__":
    run_command(main)
