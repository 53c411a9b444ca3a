"""The misclassified images are shown most confident first."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rice_lib.common.errors import RiceError
from rice_lib.data.synthetic import VARIETIES
from rice_lib.report import images


@pytest.fixture
def predictions():
    """30 predictions: images 3 and 8 misclassified, 8 with more confidence."""
    labels = np.arange(30) % 5
    predicted = labels.copy()
    predicted[[3, 8]] = 0
    scores = np.full((30, 5), 0.05)
    scores[np.arange(30), predicted] = 0.8
    scores[8] = [0.96, 0.01, 0.01, 0.01, 0.01]
    about = {"labels": labels, "predicted": predicted, "scores": scores, "classes": VARIETIES}
    yield SimpleNamespace(paths=[f"{i}.jpg" for i in range(30)], **about)
    plt.close("all")


class _Images:
    asked: np.ndarray

    def __init__(self) -> None:
        self.paths = [f"{i}.jpg" for i in range(30)]

    def batch(self, indices: np.ndarray) -> np.ndarray:
        self.asked = indices
        return np.zeros((len(indices), 8, 8, 3), np.uint8)


def test_misclassified_shows_the_most_confident_first(predictions) -> None:
    examples = _Images()
    fig = images.misclassified(examples, predictions)
    assert examples.asked.tolist() == [8, 3]
    assert fig.axes[0].get_title() == "Jasmine as\nArborio 0.96"
    assert fig.get_suptitle() == "2 of 30 images misclassified"
    assert images.misclassified(examples, predictions, limit=1).get_suptitle().endswith("the 1 most confident")
    titled = images.misclassified(examples, predictions, subject="cnn")
    assert titled.get_suptitle() == "cnn\n2 of 30 images misclassified"


def test_where_all_are_correct_the_least_confident_are_shown(predictions) -> None:
    examples, predictions.labels = _Images(), predictions.predicted
    predictions.scores[17] = [0.3, 0.1, 0.4, 0.1, 0.1]
    assert images.misclassified(examples, predictions).get_suptitle().startswith("All 30 images correct")
    assert examples.asked[0] == 17


def test_predictions_of_other_images_are_an_error(predictions) -> None:
    predictions.paths = predictions.paths[::-1]
    with pytest.raises(RiceError, match="other images"):
        images.misclassified(_Images(), predictions)
