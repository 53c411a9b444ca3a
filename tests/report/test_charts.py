"""The charts hold the numbers that they are given, and figures are written complete or not at all."""

from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rice_lib.common.colours import COLOURS, INK
from rice_lib.common.tracking import Metric
from rice_lib.data.synthetic import VARIETIES
from rice_lib.report import charts, images, style


@pytest.fixture(autouse=True)
def _no_figure_left_open() -> Iterator[None]:
    yield
    plt.close("all")


ODD = ("$5 a $kilo", "Basmati", "Basmati 370", "riz rond", "Ünï", "a_b^c", "A", "{x}", "Java & Bali")


def _texts(fig: Figure) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_confusion_has_true_in_rows() -> None:
    fig = charts.confusion(np.array([0, 0, 1, 3]), np.array([0, 2, 1, 3]), VARIETIES)
    counts = {t.get_position(): t.get_text() for t in fig.axes[0].texts}
    assert counts[(2.5, 0.5)] == "1"  # column predicted Ipsala, row true Arborio
    assert (0.5, 2.5) not in counts
    rows = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert rows[0] == "Arborio\nrecall 50.00%"
    assert rows[4] == "Karacadag\nno image"
    assert fig.axes[0].get_ylabel() == "true"


def test_intervals_says_what_was_not_measured() -> None:
    fig = charts.intervals({"cnn": Metric(0.99, 0.98, 0.995), "vit": Metric(None, how="no GPU")})
    assert "not measured here" in _texts(fig)
    assert "0.9900" in _texts(fig)


def _grains(names: Sequence[str] = VARIETIES) -> pd.DataFrame:
    numbers = np.arange(9 * len(names))
    return pd.DataFrame({"label": np.repeat(names, 9), "area": numbers.astype(float), "number": numbers})


def _logarithmic() -> Figure:
    fig, ax = style.subplots(height=3)
    ax.plot([3, 300], [0.5, 40])
    ax.set(xscale="log", yscale="log")
    return fig


@pytest.mark.parametrize(
    "draw",
    [
        _logarithmic,
        lambda: images.image_grid(np.zeros((7, 8, 8, 3), np.uint8), [str(i) for i in range(7)], title="seven"),
        lambda: images.image_grid([]),
        lambda: charts.distributions(_grains(), ["area"]),
        lambda: charts.distributions(_grains(ODD), ["area"]),
        lambda: charts.confusion(np.arange(10) % 9, np.arange(10) % 9, ODD),
        lambda: charts.lines(
            pd.DataFrame({"batch": [1, 8], "images/s": [5, 9], "engine": ["torch"] * 2}),
            x="batch",
            y="images/s",
            hue="engine",
        ),
    ],
)
def test_every_figure_is_drawn_and_written(draw, tmp_path) -> None:
    style.use_style()
    written = []
    for _ in range(2):
        fig = draw()
        assert isinstance(style.save(fig, tmp_path / "new" / "f"), Figure)
        (file,) = (tmp_path / "new").iterdir()
        written.append(file.read_bytes())
    assert written[0] == written[1], "the same figure, the same file"
    if fig.photographs:
        assert Image.open(file).format == "JPEG"
        assert Image.open(file).width > 1000, "twice the page's pixels"
    else:
        assert b"<svg" in written[0]
        assert b"mathdefault" not in written[0], "a logarithmic axis labelled in TeX, which the style does not read"
        assert len(written[0]) < 200_000


def test_a_figure_takes_the_place_of_one_of_the_other_kind(tmp_path) -> None:
    (tmp_path / "f.svg").write_text("old")
    style.save(images.image_grid([]), tmp_path / "f.svg")
    assert [file.name for file in tmp_path.iterdir()] == ["f.jpg"]


def test_slope_names_each_model_once_and_says_what_was_not_measured() -> None:
    found = {
        "ViT": {"random": Metric(0.99, 0.98, 0.995), "session": Metric(0.8, 0.7, 0.9)},
        "CNN": {"random": Metric(0.99)},
    }
    fig = charts.slope(found, ["random", "session", "camera"])
    assert sorted(_texts(fig)) == ["80.0", "99.0", "not measured\nhere"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["ViT", "CNN"]


def test_the_most_frequent_error_is_named() -> None:
    labels = np.array([0, 0, 0, 1, 2])
    assert charts.most_confused(labels, labels, VARIETIES) == "all 5 images are classified correctly"
    predicted = np.array([0, 3, 3, 0, 2])
    said = "3 of 5 images are misclassified, most often Arborio as Jasmine (2)"
    assert charts.most_confused(labels, predicted, VARIETIES) == said
    assert charts.most_confused(labels, predicted, VARIETIES, most=3) == f"{said}, Basmati as Arborio (1)"


def test_a_notebook_shows_a_figure_once(monkeypatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    for fig in (images.image_grid([]), charts.confusion(np.array([1]), np.array([1]), VARIETIES)):
        fig._ipython_display_()
    assert len(shown) == 2
    assert not plt.get_fignums()  # nothing left for the inline backend to show after the cell


def test_every_class_looks_different_by_colour_up_to_eight_and_then_by_marker_and_line() -> None:
    looks = style.looks([f"rice {number}" for number in range(20)])
    assert list(looks) == [f"rice {number}" for number in range(20)]
    assert len({colour for colour, _, _ in list(looks.values())[:8]}) == 8
    assert len(set(looks.values())) == 20
    assert len(style.looks([str(number) for number in range(100)])) == 100
    style.use_style()
    assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == list(COLOURS)
    assert plt.rcParams["text.color"] == INK
