"""What the model that ships rejects, of real grains and of other things; the `real` test prints the table."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from support import not_grains
from support.data import real_images

from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.common.paths import Paths
from rice_lib.contract.decode import decode
from rice_lib.contract.prediction import feature_table
from rice_lib.models.metrics import wilson

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/rice-vit-tiny.onnx"
EVERY = 5
"""Every n-th test image is used."""
PER_KIND = 40


def reasons_of(model: Predictor, pixels: np.ndarray) -> list[str | None]:
    assert model.decision is not None
    return list(model.decision.rejections(model.logits(pixels), feature_table(pixels)))


def images_of_the_test_split() -> list[str]:
    """Paths of the shipped model's test images, `<Variety>/<name>`, from its split file; skips where there is none."""
    file = Paths(ROOT, "scratch").split("random")
    if not file.is_file():
        pytest.skip(f"{file}: notebook 02 has not run under the profile that the model was trained with")
    rows = [line.rsplit(",", 2) for line in file.read_text(encoding="utf-8").splitlines()[2:]]
    return [path for path, _, part in rows if part == "test"][::EVERY]


def pixels_of(paths: list[str]) -> np.ndarray:
    source = real_images()
    if source.is_dir():
        return np.stack([decode(source / path) for path in paths])
    with zipfile.ZipFile(source) as archive:
        inside = {"/".join(name.split("/")[-2:]): name for name in archive.namelist()}
        return np.stack([decode(archive.read(inside[path])) for path in paths])


def row(name: str, reasons: list[str | None]) -> str:
    count, n = sum(reason is not None for reason in reasons), len(reasons)
    low, high = wilson(count, n)
    return f"{name:<30}{count:>6} of {n:<6}{count / n:>8.2%}   ({low:.2%} - {high:.2%})"


def with_noise(images: np.ndarray, levels: float) -> np.ndarray:
    """The images with a sensor's noise, of that standard deviation in grey levels, on every pixel."""
    noise = np.random.default_rng(83).normal(0, levels, images.shape)
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


@pytest.mark.real
@pytest.mark.slow
def test_real_grains_are_predicted_and_other_things_rejected(capsys):
    """At most 0.5 % of real test grains, at least 95 % of every kind of other things, of the half held out."""
    grains = pixels_of(images_of_the_test_split())
    with open_predictor(MODEL, threads=1) as model:
        real = reasons_of(model, grains)
        # what the rule does not forgive: documented, and not asserted
        noisy = reasons_of(model, with_noise(grains, 6.0))
        others = {
            kind: reasons_of(model, not_grains.draw(kind, PER_KIND, "held-out", grains)) for kind in not_grains.KINDS
        }
    every = [reason for reasons in others.values() for reason in reasons]
    with capsys.disabled():
        print(f"\n{'rejected':<30}\n{row('real test grains', real)}")
        print(row("the same, noise of 6 levels", noisy))
        print("\n".join(row(kind, reasons) for kind, reasons in others.items()))
        print(row("other things, all", every))
    assert sum(reason is not None for reason in real) <= 0.005 * len(real)
    for kind, reasons in {**others, "all": every}.items():
        assert sum(reason is not None for reason in reasons) >= 0.95 * len(reasons), kind


def test_the_shipped_model_rejects_the_plainest_of_other_things():
    grains = np.stack([decode(file) for file in sorted((ROOT / "data/samples").rglob("*.jpg"))])
    kinds = ("plain colours", "uniform noise", "photographs", "two grains, touching", "drawn rings")
    with open_predictor(MODEL, threads=1) as model:
        assert reasons_of(model, grains) == [None] * len(grains)
        for kind in kinds:
            assert None not in reasons_of(model, not_grains.draw(kind, 3, "development", grains)), kind


def test_the_halves_share_no_photograph():
    one, other = (set(not_grains.photographs(half)) for half in not_grains.HALVES)
    assert one
    assert other
    assert not one & other
    assert set(not_grains.HELD_OUT_KINDS) < set(not_grains.KINDS)
