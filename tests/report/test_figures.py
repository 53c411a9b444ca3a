"""The figures hold what they are told, and are written whole or not at all."""

from collections.abc import Iterator
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rice_lib.common.classes import VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.common.tracking import Metric
from rice_lib.models.reliability import reliability
from rice_lib.report import figures


@pytest.fixture(autouse=True)
def _no_figure_left_open() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def told() -> SimpleNamespace:
    """30 predictions: images 3 and 8 told wrongly, 8 the surer."""
    labels = np.arange(30) % 5
    predicted = labels.copy()
    predicted[[3, 8]] = 0
    scores = np.full((30, 5), 0.05)
    scores[np.arange(30), predicted] = 0.8
    scores[8] = [0.96, 0.01, 0.01, 0.01, 0.01]
    return SimpleNamespace(paths=[f"{i}.jpg" for i in range(30)], labels=labels, predicted=predicted, scores=scores)


class _Images:
    asked: np.ndarray

    def __init__(self) -> None:
        self.paths = [f"{i}.jpg" for i in range(30)]

    def batch(self, indices: np.ndarray) -> np.ndarray:
        self.asked = indices
        return np.zeros((len(indices), 8, 8, 3), np.uint8)


def _texts(fig: Figure) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_confusion_has_true_in_rows() -> None:
    fig = figures.confusion(np.array([0, 0, 1, 3]), np.array([0, 2, 1, 3]))
    counts = {t.get_position(): t.get_text() for t in fig.axes[0].texts}
    assert counts[(2, 0)] == "1"  # column predicted Ipsala, row true Arborio
    assert counts[(0, 2)] == "·"
    assert "50.00%" in counts.values()
    assert "no image" in counts.values()
    assert fig.axes[0].get_ylabel() == "true"


def test_mistakes_shows_the_surest_first(told: SimpleNamespace) -> None:
    images = _Images()
    fig = figures.mistakes(images, told)
    assert images.asked.tolist() == [8, 3]
    assert fig.axes[0].get_title() == "Jasmine, told\nArborio 0.96"
    assert fig.get_suptitle() == "2 of 30 images told wrongly"
    assert figures.mistakes(images, told, limit=1).get_suptitle().endswith("the surest 1")
    assert figures.mistakes(images, told, subject="cnn").get_suptitle() == "cnn\n2 of 30 images told wrongly"


def test_no_mistake_shows_the_least_certain(told: SimpleNamespace) -> None:
    images, told.labels = _Images(), told.predicted
    told.scores[17] = [0.3, 0.1, 0.4, 0.1, 0.1]
    assert figures.mistakes(images, told).get_suptitle().startswith("No mistake in 30")
    assert images.asked[0] == 17


def test_mistakes_refuses_other_images(told: SimpleNamespace) -> None:
    told.paths = told.paths[::-1]
    with pytest.raises(RiceError, match="other images"):
        figures.mistakes(_Images(), told)


def test_intervals_says_what_was_not_measured() -> None:
    fig = figures.intervals({"cnn": Metric(0.99, 0.98, 0.995), "vit": Metric(None, how="no GPU")})
    assert "not measured here" in _texts(fig)
    assert "0.9900" in _texts(fig)


def test_reliability_has_a_column_a_reading_with_its_bins() -> None:
    # two of four images told with 0.9 are right; 0.9 lies in the 14th of 15 bins
    scores = np.tile([0.9, 0.1], (4, 1))
    found = reliability(np.array([0, 0, 1, 1]), scores)
    fig = figures.reliability({"before": found, "after": found})
    assert [ax.get_title() for ax in fig.axes[:2]] == ["before\nECE 0.4000", "after\nECE 0.4000"]
    (bar,) = fig.axes[0].patches
    assert (bar.get_x(), bar.get_height()) == (pytest.approx(13 / 15), 0.5)
    (count,) = fig.axes[2].patches
    assert count.get_height() == 4


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.image_grid(np.zeros((7, 8, 8, 3), np.uint8), [str(i) for i in range(7)], title="seven"),
        lambda: figures.image_grid([]),
        lambda: figures.learning_curves(
            [{"epoch": 0.5, "loss": 1.0}, {"epoch": 1, "eval_loss": 0.5, "eval_accuracy": 0.9}]
        ),
        lambda: figures.reliability({"before": reliability(np.array([0, 1, 2]), np.eye(5)[[0, 1, 1]])}),
        lambda: figures.weights(np.arange(10.0).reshape(5, 2), ["area", "aspect"]),
        lambda: figures.distributions(
            pd.DataFrame({"label": np.repeat(VARIETIES, 9), "area": np.arange(45.0)}), ["area"]
        ),
        lambda: figures.counts(pd.DataFrame(np.eye(5), index=VARIETIES, columns=VARIETIES)),
        lambda: figures.lines(
            pd.DataFrame({"batch": [1, 8], "images/s": [5, 9], "engine": ["torch"] * 2}),
            x="batch",
            y="images/s",
            hue="engine",
        ),
    ],
)
def test_every_figure_is_drawn_and_written(draw, tmp_path) -> None:
    figures.use_style()
    file = figures.save(draw(), tmp_path / "new" / "f.png")
    assert Image.open(file).width > 500
    assert [p.name for p in file.parent.iterdir()] == ["f.png"]


def test_a_figure_that_cannot_be_drawn_leaves_no_file(tmp_path) -> None:
    with pytest.raises(ValueError, match="not supported"):
        figures.save(figures.image_grid([]), tmp_path / "f.nonsense")
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_a_figure_once(monkeypatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    for fig in (figures.image_grid([]), figures.confusion(np.array([1]), np.array([1]))):
        fig._ipython_display_()
    assert len(shown) == 2
    assert not plt.get_fignums()  # nothing left for the inline backend to show after the cell


def test_a_colour_for_every_variety() -> None:
    assert tuple(figures.PALETTE) == VARIETIES
    assert len(set(figures.PALETTE.values())) == len(VARIETIES)
