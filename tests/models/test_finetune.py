"""Training: the parts that decide what is learnt, and that a killed run ends with the weights of an unbroken one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed
from transformers.utils import logging

from rice_lib.backends.open import open_predictor
from rice_lib.backends.vit import load_checkpoint, normalise
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.data import manifest, split
from rice_lib.data.loading import open_examples
from rice_lib.data.synthetic import VARIETIES
from rice_lib.models import finetune
from rice_lib.models.metrics import evaluate
from rice_lib.models.vit import create_model

SETTINGS = {
    "data": {"per_class": 12},
    "finetune": {
        "architecture": {"hidden_size": 16, "layers": 1, "heads": 1},
        "epochs": 3,
        "batch_size": 8,
        "weight_average": 0.9,
    },
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A run with data and splits made, in a root of its own."""
    root = tmp_path_factory.mktemp("root")
    opened = Run.open("tiny", **SETTINGS)
    run = Run(opened.params, Paths(root, "tiny"))
    manifest.build(run)
    split.make(run)
    return run


def elsewhere(run, tmp_path):
    """The same run with models and tracking of its own."""
    (tmp_path / "data").symlink_to(run.paths.root / "data")
    return Run(run.params, Paths(tmp_path, "tiny"))


def train(run):
    """What notebook 04 does."""
    set_seed(run.params.seed)
    model = create_model(run.params.finetune, VARIETIES)
    return finetune.train(run, "random", model, finetune.training_arguments(run, "random"))


def test_a_batch_is_bytes_with_labels_and_only_training_is_augmented(ready):
    examples = open_examples(ready.paths, "random", "train")
    plain = finetune.PixelDataset(examples).__getitems__([3, 0])
    assert plain["pixel_values"].dtype == torch.uint8
    assert np.array_equal(plain["pixel_values"].numpy(), examples.batch(np.array([3, 0])))
    assert plain["labels"].tolist() == examples.labels[[3, 0]].tolist()
    changed = finetune.PixelDataset(examples, ready.params.finetune.augmentation).__getitems__([3, 0])
    assert not torch.equal(changed["pixel_values"], plain["pixel_values"])


def test_the_fingerprint_changes_with_what_the_result_depends_on_and_with_nothing_else(ready):
    def fingerprint(**changes):
        return finetune.training_folder(Run(ready.params.model_copy(update=changes), ready.paths), "random").name

    base = fingerprint()
    assert fingerprint(seed=84) != base
    assert fingerprint(finetune=ready.params.finetune.model_copy(update={"learning_rate": 0.5})) != base
    assert fingerprint(finetune=ready.params.finetune.model_copy(update={"schemes": ["session"]})) == base
    assert fingerprint(export=ready.params.export.model_copy(update={"opset": 19})) == base
    assert finetune.training_folder(ready, "session").name.partition("-")[2] != base.partition("-")[2]


def test_the_trainer_prints_no_numbers_once_transformers_is_silent(ready):
    logging.set_verbosity_error()  # as create_model does: the Trainer then takes the callback that prints
    assert finetune.training_arguments(ready, "random").disable_tqdm is False


def test_a_half_written_checkpoint_is_ignored(tmp_path):
    for step, state in ((10, "{}"), (20, None), (9, "{}"), (30, '{"half')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert finetune.newest_checkpoint(tmp_path).name == "checkpoint-10"
    assert finetune.newest_checkpoint(tmp_path / "none") is None


@pytest.mark.slow
def test_the_same_run_twice_and_after_a_kill_gives_the_same_numbers_to_the_last_bit(ready, tmp_path):
    """On a CPU: weights, what the training logged, and the test images' scores."""
    torch.set_num_threads(1)  # as the predictor of the first run leaves it for the second
    runs = {}
    for name in ("once", "again", "killed"):
        (tmp_path / name).mkdir()
        runs[name] = elsewhere(ready, tmp_path / name)
    kill_after_first_epoch(runs["killed"])
    assert not runs["killed"].paths.checkpoint("random").exists()
    results = {name: train(run) for name, run in runs.items()}
    assert {name: result.resumed_from is not None for name, result in results.items()} == {
        "once": False, "again": False, "killed": True,
    }  # fmt: skip
    weights = {name: load_file(run.paths.checkpoint("random") / "model.safetensors") for name, run in runs.items()}
    scores = {name: scores_of(run) for name, run in runs.items()}
    for name in ("again", "killed"):
        assert weights[name].keys() == weights["once"].keys()
        differing = [key for key, weight in weights[name].items() if not torch.equal(weight, weights["once"][key])]
        assert differing == [], name
        assert learnt(results[name]) == learnt(results["once"]), name
        np.testing.assert_array_equal(scores[name], scores["once"])
    assert not list(runs["once"].paths.training.rglob("checkpoint-*")), "a finished scheme leaves no checkpoints"
    facts = json.loads((runs["killed"].paths.checkpoint("random") / "provenance.json").read_text())
    assert facts["scheme"] == "random"
    assert facts["mlflow_run"] == results["killed"].mlflow_run


def learnt(result):
    """The training's log without its times, and without the training loss: each line averages it since the line before,
    and a resumed run has no lines before its first."""
    left_out = ("runtime", "per_second", "total_flos", "train_loss")
    kept = [{k: v for k, v in row.items() if not any(part in k for part in left_out)} for row in result.history]
    return [{k: v for k, v in row.items() if k != "loss"} for row in kept]


def scores_of(run):
    with open_predictor(run.paths.checkpoint("random"), threads=1) as predictor:
        return evaluate(predictor, open_examples(run.paths, "random", "test"), 8).scores


@pytest.mark.slow
def test_processes_load_after_opencv_used_its_threads(ready, tmp_path):
    """In a process of its own, for it hangs where the threads are not stopped first."""
    run = elsewhere(ready, tmp_path)
    finetuned = {**SETTINGS["finetune"], "epochs": 1, "workers": 1}
    code = f"""
        import cv2, numpy as np
        from pathlib import Path
        from transformers import set_seed
        from rice_lib.data.synthetic import VARIETIES
        from rice_lib.common.paths import Paths
        from rice_lib.common.run import Run
        from rice_lib.models import finetune
        from rice_lib.models.vit import create_model
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (0, 0), 3)
        params = Run.open("tiny", data={SETTINGS["data"]!r}, finetune={finetuned!r}).params
        run = Run(params, Paths(Path({str(run.paths.root)!r}), "tiny"))
        set_seed(1)
        model = create_model(params.finetune, VARIETIES)
        finetune.train(run, "random", model, finetune.training_arguments(run, "random"))
        assert cv2.getNumThreads() == 4
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=180, check=True)


@pytest.mark.slow
def test_a_finished_scheme_is_not_trained_again_until_the_run_is_forgotten(ready, tmp_path, monkeypatch):
    run = elsewhere(ready, tmp_path)
    first = train(run)
    shutil.rmtree(run.paths.checkpoint("random"))  # as DVC does before it runs a stage again
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "RiceTrainer", None)
        assert train(run) == first
    assert load_checkpoint(run.paths.checkpoint("random")).config.foreground_patches == 64
    weights, configuration = (run.paths.checkpoint("random") / name for name in ("model.safetensors", "config.json"))
    assert weights.stat().st_mode == configuration.stat().st_mode  # others may read the weights, too
    finetune.forget(run)
    assert not run.paths.training.exists()


@pytest.mark.slow
def test_the_best_epoch_is_what_is_kept(ready, tmp_path, monkeypatch):
    run = elsewhere(ready, tmp_path)
    saved = {}

    class Spy(finetune.RiceTrainer):
        def evaluate(self, *args, **kwargs):
            numbers = super().evaluate(*args, **kwargs)
            epoch = round(self.state.epoch)
            numbers["eval_loss"] = {1: 1.0, 2: 0.5, 3: 0.9}[epoch]  # the second epoch is made to be the best
            saved[epoch] = {name: weight.clone() for name, weight in self.average.state_dict().items()}
            return numbers

    monkeypatch.setattr(finetune, "RiceTrainer", Spy)
    result = train(run)
    assert result.best_validation_loss == 0.5
    kept = load_checkpoint(run.paths.checkpoint("random")).state_dict()
    for name, weight in kept.items():
        torch.testing.assert_close(weight, saved[2][name], atol=0, rtol=0)
    assert any(not torch.equal(weight, saved[3][name]) for name, weight in kept.items())


def kill_after_first_epoch(run):
    """Train in another process and kill it as soon as it has saved a complete checkpoint."""
    program = f"""
        from pathlib import Path
        import torch
        from rice_lib.data.synthetic import VARIETIES
        from rice_lib.common.paths import Paths
        from rice_lib.common.run import Run
        from rice_lib.models import finetune
        from rice_lib.models.vit import create_model
        from transformers import set_seed
        run = Run(Run.open("tiny", **{SETTINGS!r}).params, Paths(Path({str(run.paths.root)!r}), "tiny"))
        torch.set_num_threads({torch.get_num_threads()})  # sums are ordered by the threads that share them
        set_seed(run.params.seed)
        model = create_model(run.params.finetune, VARIETIES)
        finetune.train(run, "random", model, finetune.training_arguments(run, "random"))
    """
    log = (run.paths.root / "training.log").open("w+")
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=log)
    folder = finetune.training_folder(run, "random")
    deadline = time.monotonic() + 300
    while finetune.newest_checkpoint(folder) is None:
        assert process.poll() is None, (run.paths.root / "training.log").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_bfloat16_is_used_where_configured_or_where_the_gpu_has_it():
    assert finetune.use_bfloat16("bfloat16")
    assert not finetune.use_bfloat16("float32")
    assert finetune.use_bfloat16("auto") == (torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def test_validation_metrics():
    logits = np.eye(3)[[0, 1, 2, 2]]
    prediction = finetune.EvalPrediction(predictions=logits, label_ids=np.array([0, 1, 2, 1]))
    assert finetune.accuracy_and_f1(prediction)["accuracy"] == 0.75
    assert finetune.accuracy_and_f1(prediction)["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_an_aligned_model_trains_and_its_best_weights_come_back(ready, tmp_path):
    changes = {"foreground_patches": None, "aligned_frame": [48, 128], "epochs": 1}
    params = ready.params.model_copy(update={"finetune": ready.params.finetune.model_copy(update=changes)})
    run = elsewhere(Run(params, ready.paths), tmp_path)
    result = train(run)
    assert np.isfinite(result.best_validation_loss)
    model = load_checkpoint(run.paths.checkpoint("random"))
    pixels = open_examples(run.paths, "random", "validation").batch(slice(None))
    assert torch.isfinite(model(pixel_values=normalise(torch.from_numpy(pixels))).logits).all()
    assert model.config.aligned_frame == [48, 128]
