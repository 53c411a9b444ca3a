"""Fine-tune the ViT with transformers' `Trainer`: resumable, tracked, fed from the memory-mapped pixels.

    set_seed(params.seed)
    model = create_model(params.finetune, read_classes(paths))
    result = train(run, scheme, model, training_arguments(run, scheme))

A run's checkpoints lie in a folder named by what the result depends on (parameters, split, seed): a killed run resumes,
a changed one starts over, and a finished one leaves only its best weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from rice_lib.backends.vit import PROVENANCE_FILE, RiceViTForImageClassification, normalise
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_folder, read_json, sha256_file, write_json, write_text
from rice_lib.common.parameters import AugmentationParams
from rice_lib.common.run import Run
from rice_lib.common.tracking import import_mlflow, mlflow_session, provenance
from rice_lib.data.loading import Examples, open_examples
from rice_lib.models.augment import augment

HISTORY_FILE = "history.json"
RUN_ID_FILE = "mlflow_run"
AVERAGE_FOLDER = "average"  # in a checkpoint


@dataclass(frozen=True)
class TrainResult:
    """What a training run left: the Trainer's log (one record an event), and its cost."""

    history: list[dict[str, float]]
    best_step: int
    best_validation_loss: float
    seconds: float  # of the last process' part of the run, evaluation and saving included
    images_per_second: float  # training images of that part over that time
    resumed_from: str | None
    mlflow_run: str


def training_folder(run: Run, scheme: str) -> Path:
    """Name the folder of a scheme's checkpoints under way, by all that the result depends on: parameters, seed, split.

    Eight hex digits are of the parameters (`schemes` and `threads` aside: the others' trainings change nothing, and
    how many cores a machine has never named the folder), eight of the split's file.
    """
    split = sha256_file(run.paths.split(scheme))[:8] if run.paths.split(scheme).is_file() else "nosplit"
    finetune = run.params.finetune.model_copy(update={"schemes": ["random"]})
    params = run.params.model_copy(update={"finetune": finetune})
    parameters = params.fingerprint("seed", "finetune", exclude={"finetune": {"threads"}})[:8]
    return run.paths.training / f"{scheme}-{parameters}{split}"


def training_arguments(run: Run, scheme: str) -> TrainingArguments:
    """Turn a profile's settings into transformers' arguments; checkpoints go to `training_folder`.

    Where `accelerate launch` or `torchrun` started several processes, they share out each batch: the result is that of
    the same settings. Raises `RiceError` where the batch does not divide by their number.
    """
    settings, processes = run.params.finetune, int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch_size % processes:
        raise RiceError(f"finetune.batch_size={settings.batch_size}: does not divide among {processes} processes")
    return TrainingArguments(
        output_dir=str(training_folder(run, scheme)),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size // processes,
        per_device_eval_batch_size=settings.eval_batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_ratio,
        lr_scheduler_type=settings.scheduler,
        label_smoothing_factor=settings.label_smoothing,
        use_cpu=processes > 1 and not torch.cuda.is_available(),  # else transformers takes one CPU process for all
        bf16=use_bfloat16(settings.precision),
        torch_compile=settings.compile,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=10,
        seed=run.params.seed,
        data_seed=run.params.seed,
        report_to="none",
        disable_tqdm=False,  # else the Trainer prints every number, once transformers' own messages are off
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,  # there are none, and looking for them costs a pass over the graph
    )


def train(run: Run, scheme: str, model: RiceViTForImageClassification, arguments: TrainingArguments) -> TrainResult:
    """Fine-tune on one split scheme and leave the best weights (by validation loss) in `paths.checkpoint(scheme)`.

    Resumes from the newest complete checkpoint in `training_folder`; where that run had finished, takes its result
    as it is. `forget` ends the run.

    The model comes from `create_model`, after `set_seed`, and is trained in place. Of several processes, the first
    alone writes and tracks.
    """
    if run.params.finetune.threads is not None:
        torch.set_num_threads(run.params.finetune.threads)
    folder = training_folder(run, scheme)
    finished = folder / "finished"
    if not finished.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.process_index:
            return _fit(run, scheme, model, arguments, mlflow_run="")
        run_id = folder / RUN_ID_FILE
        known = run_id.read_text(encoding="utf-8").strip() if run_id.is_file() else None
        with mlflow_session(run, f"04_vit_finetune/{scheme}", known) as mlflow_run:
            write_text(run_id, mlflow_run)
            result = asdict(_fit(run, scheme, model, arguments, mlflow_run))
        with atomic_folder(finished) as fresh:
            write_json(fresh / HISTORY_FILE, result.pop("history"))
            write_checkpoint(run, model, fresh, scheme, result)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    with atomic_folder(run.paths.checkpoint(scheme)) as fresh:
        shutil.copytree(finished, fresh, dirs_exist_ok=True)
    return read_result(run.paths.checkpoint(scheme))


def write_checkpoint(
    run: Run, model: RiceViTForImageClassification, folder: Path, trained_on: str, facts: Mapping[str, Any]
) -> None:
    """Write a model's weights and configuration to a folder, and what made it: the run, its settings, more `facts`."""
    model.save_pretrained(folder)
    # safetensors lets nobody else read its file
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    form = {name: getattr(model.config, name) for name in ("aligned_frame", "foreground_patches")}  # shipped: its own
    settings = run.params.finetune.model_dump(mode="json") | form
    write_json(folder / PROVENANCE_FILE, {**provenance(run), "scheme": trained_on, "finetune": settings, **facts})


def forget(run: Run) -> None:
    """End a run: remove its training checkpoints and finished schemes, so that the next run starts over."""
    shutil.rmtree(run.paths.training, ignore_errors=True)


def read_result(checkpoint: Path) -> TrainResult:
    """Read how a checkpoint was trained, from the files beside its weights."""
    facts = {**read_json(checkpoint / PROVENANCE_FILE), "history": read_json(checkpoint / HISTORY_FILE)}
    return TrainResult(**{field.name: facts[field.name] for field in fields(TrainResult)})


def _fit(
    run: Run, scheme: str, model: RiceViTForImageClassification, arguments: TrainingArguments, mlflow_run: str
) -> TrainResult:
    resume = newest_checkpoint(training_folder(run, scheme))
    trainer = RiceTrainer(
        weight_average=run.params.finetune.weight_average,
        model=model,
        args=arguments,
        train_dataset=PixelDataset(open_examples(run.paths, scheme, "train"), run.params.finetune.augmentation),
        eval_dataset=PixelDataset(open_examples(run.paths, scheme, "validation")),
        data_collator=dict,  # as it is: PixelDataset reads batches already
        compute_metrics=accuracy_and_f1,
        callbacks=[EarlyStoppingCallback(run.params.finetune.early_stopping_patience), _LogToMlflow()],
    )
    trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
    trainer.add_callback(_Progress())
    with _one_opencv_thread():
        seconds = trainer.train(resume_from_checkpoint=str(resume) if resume else None).metrics["train_runtime"]
    trainer.accelerator.wait_for_everyone()  # each process reads the best checkpoint, which the first then removes
    state = trainer.state
    assert state.best_metric is not None  # every epoch is evaluated
    steps = state.global_step - (_step(resume) if resume else 0)
    return TrainResult(
        history=state.log_history,
        best_step=state.best_global_step or state.global_step,
        best_validation_loss=float(state.best_metric),
        seconds=seconds,
        images_per_second=steps * run.params.finetune.batch_size / seconds,
        resumed_from=resume.name if resume else None,
        mlflow_run=mlflow_run,
    )


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Have OpenCV compute in the thread that calls it: the loader's processes are the parallelism, and one that is
    forked while OpenCV has threads waits for them for ever."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the last checkpoint that was written completely: the Trainer writes `trainer_state.json` last."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            read_json(checkpoint / "trainer_state.json")
        except (OSError, ValueError):
            continue
        return checkpoint
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def use_bfloat16(precision: str) -> bool:
    """Decide whether to train in bfloat16: as configured, or (`auto`) where the GPU computes in it natively."""
    if precision != "auto":
        return precision == "bfloat16"
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


class PixelDataset(Dataset):
    """Examples as a torch dataset that reads, and augments, a batch at a time (`__getitems__`)."""

    def __init__(self, examples: Examples, augmentation: AugmentationParams | None = None) -> None:
        self.examples = examples
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Read a batch: uint8 `[N, 224, 224, 3]` and int64 `[N]`."""
        chosen = np.asarray(indices)
        pixels = self.examples.batch(chosen)
        if self.augmentation is not None:
            pixels = augment(pixels, self.augmentation)
        return {"pixel_values": torch.from_numpy(pixels), "labels": torch.from_numpy(self.examples.labels[chosen])}


class RiceTrainer(Trainer):
    """A `Trainer` whose batches travel as bytes, a quarter of their size as floats, and are normalised on arrival.

    It loads its checkpoints through `from_pretrained`, strictly: transformers 5 saves a ViT under older names of its
    weights, and the `Trainer`'s own non-strict loading then passes over the encoder with no more than a warning.

    With `weight_average` it evaluates, and takes for the best, a moving average of the weights and of the
    normalisation's statistics, which lies beside the weights in each checkpoint.
    """

    def __init__(self, *args: Any, weight_average: float | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.average: Any = None
        if weight_average is not None:
            self.average = deepcopy(self.model)
            self.add_callback(_UpdateAverage(self.average, weight_average))

    def _prepare_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        ready = dict(super()._prepare_inputs(dict(inputs)))
        ready["pixel_values"] = normalise(ready["pixel_values"])
        return ready

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Evaluate the average where there is one."""
        if self.average is None:
            return super().evaluate(*args, **options)
        model = self.accelerator.unwrap_model(self.model)
        own = deepcopy(model.state_dict())
        model.load_state_dict(self.average.state_dict())
        try:
            return super().evaluate(*args, **options)
        finally:
            model.load_state_dict(own)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.average is not None:
            self.average.save_pretrained(Path(output_dir or str(self.args.output_dir)) / AVERAGE_FOLDER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _load_weights(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint))
        if self.average is not None:
            _load_weights(self.average, Path(resume_from_checkpoint, AVERAGE_FOLDER))

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            best = Path(self.state.best_model_checkpoint, "" if self.average is None else AVERAGE_FOLDER)
            _load_weights(self.accelerator.unwrap_model(self.model), best)


def _load_weights(model: Any, folder: Path) -> None:
    saved = RiceViTForImageClassification.from_pretrained(folder, local_files_only=True)
    model.load_state_dict(saved.state_dict(), strict=True)


class _UpdateAverage(TrainerCallback):
    """Moves the average towards the weights after each step: at first by most of the way, so that it forgets where
    training began, at last by 1 - `decay` of it."""

    def __init__(self, average: torch.nn.Module, decay: float) -> None:
        self.average, self.decay = average, decay

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Move it."""
        share = 1 - min(self.decay, state.global_step / (9 + state.global_step))
        for mean, value in zip(self.average.state_dict().values(), model.state_dict().values(), strict=True):
            mean.copy_(mean.lerp(value, share) if mean.is_floating_point() else value)


def accuracy_and_f1(prediction: EvalPrediction) -> dict[str, float]:
    """Compute accuracy and macro F1 of a validation pass."""
    predicted, labels = np.asarray(prediction.predictions).argmax(-1), np.asarray(prediction.label_ids)
    return {"accuracy": accuracy_score(labels, predicted), "f1": f1_score(labels, predicted, average="macro")}


_CURVES = {
    "loss": "training/loss",
    "learning_rate": "training/learning rate",
    "grad_norm": "training/gradient norm",
    "epoch": "training/epoch",
    "eval_loss": "validation/loss",
    "eval_accuracy": "validation/accuracy",
    "eval_f1": "validation/macro F1",
}
"""What people call the numbers that the Trainer logs."""


class _LogToMlflow(TrainerCallback):
    """Logs the curves of the training, with their step, to the active MLflow run."""

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log what is a number of a curve."""
        numbers = {_CURVES[name]: float(value) for name, value in (logs or {}).items() if name in _CURVES}
        if state.is_world_process_zero:
            import_mlflow().log_metrics(numbers, step=state.global_step)


class _Progress(ProgressCallback):
    """A progress bar of text: transformers' own fills a notebook with HTML, and prints every number."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing: the numbers are in MLflow and in the history."""
