"""Trays composed from photographs of the test split: grains that no model was trained on, with known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from support.trays import Setting, compose, matches, numbered

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.common.errors import RiceError
from rice_lib.common.interval import wilson
from rice_lib.common.paths import Paths
from rice_lib.contract.decode import BadImageError, open_image
from rice_lib.data.loading import open_examples
from rice_lib.data.synthetic import VARIETIES
from rice_lib.tray.analyse import classify
from rice_lib.tray.find import find
from rice_lib.tray.frame import gains
from rice_lib.tray.scale import FAR_MM, NEAR_MM, TRAINING, View, known

pytestmark = [pytest.mark.real, pytest.mark.slow]

TRAYS, GRAINS = 3, 100
SHAPE = (2000, 2600)

SECOND_SESSION_FROM = 11_700
"""Jasmine is photographed nearer from about this number on."""


def real_grains(count: int, seed: int) -> tuple[list[tuple[np.ndarray, int]], list[str]]:
    """Photographs of the test split of the profile `local`, as notebook 01 unpacked them, all varieties in turn; and
    their names."""
    paths = Paths(ROOT, "local")
    try:
        examples = open_examples(paths, "random", "test")
        random = np.random.default_rng(seed)
        chosen = [random.choice(np.flatnonzero(examples.labels == i % 5)) for i in range(count)]
        files = [paths.images / examples.paths[i] for i in chosen]
        images = [np.asarray(open_image(file)) for file in files]
    except (RiceError, BadImageError) as error:
        pytest.skip(f"no test images with their files: {error}")
    labels = [int(examples.labels[i]) for i in chosen]
    return list(zip(images, labels, strict=True)), [file.name for file in files]


def sizes(labels: list[int], names: list[str]) -> tuple[float, ...]:
    """What brings every grain to the scale of the far photographs, by the estimates of `rice_lib.tray.scale`."""
    near = []
    for label, name in zip(labels, names, strict=True):
        number = int(name[name.index("(") + 1 : name.index(")")])
        second_session = VARIETIES[label] == "Jasmine" and number > SECOND_SESSION_FROM
        near.append(VARIETIES[label] in ("Basmati", "Ipsala") or second_session)
    return tuple(NEAR_MM / FAR_MM if is_near else 1.0 for is_near in near)


def counted(setting: Setting, views: tuple[View, ...] = TRAINING, true_size: bool = False) -> tuple[int, ...]:
    """Grains on all trays, matched, found for nothing, and correctly classified of the matched; printed."""
    totals = np.zeros(4, int)
    with open_predictor(default_model()) as predictor:
        for seed in range(TRAYS):
            grains, names = real_grains(GRAINS, 1000 + seed)
            physical = sizes([label for _, label in grains], names) if true_size else None
            tray = compose(grains, replace(setting, physical=physical), seed)
            found = find(tray.image).grains
            pairs = matches(tray.truth, numbered(found, tray.truth.shape))
            predictions = classify(predictor, tray.image, found, gains(tray.image, found), views)
            correct = sum(
                predictions[own - 1].label == predictor.labels[tray.labels[true - 1]] for true, own in pairs.items()
            )
            totals += (len(tray.labels), len(pairs), len(found) - len(pairs), correct)
    true, matched, false, correct = totals.tolist()
    scale = "" if views is TRAINING else f", scale known ({views[0].factor:.2f})"
    print(f"\n{setting.background}, {setting.touching:.0%} touching{scale}: {false} false")
    for what, count, of in (("found", matched, true), ("correct", correct, matched)):
        low, high = wilson(count, of)
        print(f"    {what} {count} of {of} ({count / of:.1%}, {low:.1%} to {high:.1%})")
    return true, matched, false, correct


@pytest.mark.parametrize("background", ["dark", "blue", "light"])
@pytest.mark.parametrize("touching", [0.0, 0.5])
def test_at_the_training_scale_99_percent_are_found_and_98_percent_of_them_correct(background, touching):
    true, matched, false, correct = counted(Setting(background=background, touching=touching, shape=SHAPE))
    assert true == TRAYS * GRAINS
    assert matched >= 0.99 * true
    assert false <= 0.01 * true
    assert correct >= 0.98 * matched


@pytest.mark.parametrize(
    ("setting", "found", "correct"),
    [
        # the hard cases fall short of the goals above: what they reach today is held
        (Setting(background="paper", shape=SHAPE), 0.97, 0.86),
        (Setting(background="paper", touching=0.5, shape=SHAPE), 0.93, 0.86),
        (Setting(touching=1.0, manners=("side",), shape=SHAPE), 0.96, 0.96),
    ],
    ids=["white paper", "white paper, touching", "all side by side"],
)
def test_the_hard_cases_do_not_become_worse(setting, found, correct):
    true, matched, _, number = counted(setting)
    assert matched >= found * true
    assert number >= correct * matched


@pytest.mark.parametrize(("error", "goal"), [(0.9, 0.85), (1.0, 0.93), (1.1, 0.85)])
def test_where_the_scale_is_known_a_variety_is_predicted_at_its_own(error, goal):
    true, matched, _, number = counted(Setting(touching=0.25, shape=SHAPE), views=known(FAR_MM * error), true_size=True)
    assert matched >= 0.98 * true
    assert number >= goal * matched
