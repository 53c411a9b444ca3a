"""Fine-tuning the ViT with transformers' `Trainer`: resumable, tracked, fed from the memory-mapped pixels.

Bytes go to the model's device as they are and are normalised there, in whole batches. A run's checkpoints lie in a
folder named by what the result depends on (parameters, split, seed), so a killed run goes on where it stopped, a
changed one starts afresh, and a finished one leaves only its best weights.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from sklearn.metrics import f1_score
from torch.utils.data import Dataset, get_worker_info
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from rice_lib.backends.vit import PROVENANCE_FILE, RiceViTForImageClassification, normalise
from rice_lib.common.classes import VARIETIES
from rice_lib.common.files import read_json, sha256_file, write_json, write_text
from rice_lib.common.parameters import AugmentationParams
from rice_lib.common.run import Run
from rice_lib.common.tracking import mlflow_session, provenance
from rice_lib.data.loading import Examples, open_examples
from rice_lib.models.augment import augment
from rice_lib.models.vit import create_model

HISTORY_FILE = "history.json"
RUN_ID_FILE = "mlflow_run"


@dataclass(frozen=True)
class TrainResult:
    """What a training run left: the Trainer's log (one record an event), and its cost."""

    history: list[dict[str, float]]
    best_step: int
    best_validation_loss: float
    seconds: float
    """Wall time of the last process' part of the run, evaluation and saving included."""
    images_per_second: float
    """Training images of that part over that time."""
    resumed_from: str | None
    mlflow_run: str


def train(
    run: Run,
    scheme: str,
    model: RiceViTForImageClassification | None = None,
    arguments: TrainingArguments | None = None,
) -> TrainResult:
    """Fine-tune on one split scheme and leave the best weights (by validation loss) in `paths.checkpoint(scheme)`.

    Continues from the newest complete checkpoint of an interrupted run with the same parameters, split and seed; where
    that run had finished this scheme, its result is taken as it is. `forget` ends the run.

    Args:
        run: the parameters and paths.
        scheme: the split.
        model: the model to train, in place; made with `create_model` where it is None.
        arguments: of `training_arguments(run, scheme)`.

    Raises:
        RiceError: the model cannot be loaded, or the split and pixels do not belong together.
    """
    arguments = arguments or training_arguments(run, scheme)
    workplace = Path(str(arguments.output_dir))
    finished = workplace / "finished"
    if not finished.is_dir():
        workplace.mkdir(parents=True, exist_ok=True)
        if model is None:
            set_seed(run.params.seed)
            model = create_model(run.params.finetune, VARIETIES)
        _train(run, scheme, model, arguments, finished)
        for checkpoint in workplace.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    target = run.paths.checkpoint(scheme)
    shutil.rmtree(target, ignore_errors=True)
    _copy_whole(finished, target)
    return read_result(target)


def forget(run: Run) -> None:
    """End a run: remove its training checkpoints and finished schemes, so that the next run trains anew."""
    shutil.rmtree(run.paths.training, ignore_errors=True)


def read_result(checkpoint: Path) -> TrainResult:
    """How a checkpoint was trained, from the files beside its weights."""
    facts = read_json(checkpoint / PROVENANCE_FILE)
    own = {field.name: facts[field.name] for field in fields(TrainResult) if field.name != "history"}
    return TrainResult(history=read_json(checkpoint / HISTORY_FILE), **own)


def _train(
    run: Run, scheme: str, model: RiceViTForImageClassification, arguments: TrainingArguments, finished: Path
) -> None:
    """Train, and leave weights, history and provenance in `finished`, complete or not at all."""
    workplace = finished.parent
    parts = {part: open_examples(run.paths, scheme, part) for part in ("train", "validation")}
    resume = newest_checkpoint(workplace)
    clock = _Clock()
    with mlflow_session(run, f"04_vit_finetune/{scheme}", _read_run_id(workplace)) as mlflow_run:
        write_text(workplace / RUN_ID_FILE, mlflow_run)
        trainer = RiceTrainer(
            model=model,
            args=arguments,
            train_dataset=PixelDataset(parts["train"], run.params.finetune.augmentation),
            eval_dataset=PixelDataset(parts["validation"]),
            data_collator=collate,
            compute_metrics=accuracy_and_f1,
            callbacks=[
                EarlyStoppingCallback(run.params.finetune.early_stopping_patience),
                _LogToMlflow(),
                clock,
            ],
        )
        trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
        trainer.add_callback(_Progress())
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    assert trainer.state.best_metric is not None  # every epoch is evaluated
    result = TrainResult(
        history=trainer.state.log_history,
        best_step=trainer.state.best_global_step or trainer.state.global_step,
        best_validation_loss=float(trainer.state.best_metric),
        seconds=clock.seconds,
        images_per_second=clock.steps * run.params.finetune.batch_size / clock.seconds,
        resumed_from=resume.name if resume else None,
        mlflow_run=mlflow_run,
    )
    _save_result(run, scheme, model, result, finished)


def run_fingerprint(run: Run, scheme: str) -> str:
    """16 hex digits that change with anything the result depends on: parameters, seed, or the split file."""
    split = sha256_file(run.paths.split(scheme))[:8] if run.paths.split(scheme).is_file() else "nosplit"
    finetune = run.params.finetune.model_copy(update={"schemes": ["random"]})
    return f"{run.params.model_copy(update={'finetune': finetune}).fingerprint('seed', 'finetune')[:8]}{split}"


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written whole: the Trainer writes `trainer_state.json` last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    return next((p for p in found if _is_json(p / "trainer_state.json")), None)


def training_arguments(run: Run, scheme: str) -> TrainingArguments:
    """Translate the profile's settings for transformers; the output folder is the workplace of this run and scheme."""
    settings = run.params.finetune
    return TrainingArguments(
        output_dir=str(run.paths.training / f"{scheme}-{run_fingerprint(run, scheme)}"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.eval_batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_ratio,
        lr_scheduler_type=settings.scheduler,
        label_smoothing_factor=settings.label_smoothing,
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
        remove_unused_columns=False,
        label_names=["labels"],
    )


def use_bfloat16(precision: str) -> bool:
    """Whether to train in bfloat16: as told, or (`auto`) where the GPU computes in it natively."""
    if precision != "auto":
        return precision == "bfloat16"
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


class PixelDataset(Dataset):
    """Examples as a torch dataset that reads, and augments, a whole batch at a time (`__getitems__`)."""

    def __init__(self, examples: Examples, augmentation: AugmentationParams | None = None) -> None:
        self.examples = examples
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One image: uint8 `[224, 224, 3]` and its class number."""
        batch = self.__getitems__([index])
        return {name: tensor[0] for name, tensor in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: uint8 `[N, 224, 224, 3]` and int64 `[N]`."""
        chosen = np.asarray(indices)
        pixels = self.examples.batch(chosen)
        if self.augmentation is not None:
            if get_worker_info() is not None:
                cv2.setNumThreads(1)  # the loader's processes are the parallelism
            pixels = augment(pixels, self.augmentation)
        return {
            "pixel_values": torch.from_numpy(pixels),
            "labels": torch.from_numpy(self.examples.labels[chosen]),
        }


def collate(batch: Any) -> dict[str, torch.Tensor]:
    """`PixelDataset` hands over whole batches already."""
    return batch


class RiceTrainer(Trainer):
    """A `Trainer` whose batches travel as bytes, a quarter of their size as floats, and are normalised on arrival.

    It also loads its own checkpoints through `from_pretrained`, strictly: transformers 5 saves a ViT under older names
    of its weights, and the `Trainer`'s own non-strict loading then passes over the whole encoder, on resuming and on
    going back to the best epoch, with no more than a warning.
    """

    def _prepare_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        ready = dict(super()._prepare_inputs(dict(inputs)))
        ready["pixel_values"] = normalise(ready["pixel_values"])
        return ready

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_weights(self.state.best_model_checkpoint)

    def _load_weights(self, checkpoint: str) -> None:
        weights = RiceViTForImageClassification.from_pretrained(checkpoint, local_files_only=True).state_dict()
        self.accelerator.unwrap_model(self.model).load_state_dict(weights, strict=True)


def accuracy_and_f1(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro F1 of a validation pass."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    predicted = np.asarray(logits).argmax(-1)
    labels = np.asarray(prediction.label_ids)
    return {
        "accuracy": float((predicted == labels).mean()),
        "f1": float(f1_score(labels, predicted, average="macro")),
    }


def _save_result(
    run: Run, scheme: str, model: RiceViTForImageClassification, result: TrainResult, target: Path
) -> None:
    fresh = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    own = asdict(result)
    write_json(fresh / HISTORY_FILE, own.pop("history"))
    settings = run.params.finetune.model_dump(mode="json")
    write_json(fresh / PROVENANCE_FILE, {**provenance(run), "scheme": scheme, "finetune": settings, **own})
    fresh.rename(target)


def _copy_whole(source: Path, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    fresh.rename(target)


class _LogToMlflow(TrainerCallback):
    """Every number the Trainer logs, with its step, to the active MLflow run."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log what is a number."""
        import mlflow

        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        mlflow.log_metrics(numbers, step=state.global_step)


class _Progress(ProgressCallback):
    """A progress bar of text: transformers' own fills a notebook with HTML, and prints every number."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing: the numbers are in MLflow and in the history."""


class _Clock(TrainerCallback):
    """Wall time and optimizer steps of this process."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0
        self.steps = 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start."""
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Count."""
        self.steps += 1

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.started


def _read_run_id(workplace: Path) -> str | None:
    file = workplace / RUN_ID_FILE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
