import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data import grain

from rice_lib.contract.decode import decode
from rice_lib.data import duplicates
from rice_lib.data.synthetic import VARIETIES


def group(pixels: np.ndarray, digests: list[str] | None = None) -> list[int]:
    hashes = np.stack([duplicates.perceptual_hash(duplicates.thumbnail(image)) for image in pixels])
    digests = digests or [hashlib.sha256(image.tobytes() + bytes([k])).hexdigest() for k, image in enumerate(pixels)]
    return duplicates.group_duplicates(digests, hashes, pixels).tolist()


@pytest.fixture(scope="module")
def grains() -> np.ndarray:
    return np.stack([decode(grain(v, n)) for v in VARIETIES for n in range(1, 9)])


def test_all_eight_orientations_are_found(grains):
    turned = duplicates.orientations(grains[7])
    assert len({image.tobytes() for image in turned}) == 8
    assert group(np.concatenate([grains[:7], turned])) == [*range(7), *[7] * 8]


def test_different_grains_stay_apart(grains):
    assert group(grains) == list(range(len(grains)))


def test_a_copy_saved_again_is_found_and_a_shifted_grain_is_not(grains):
    noisy = np.clip(grains[3].astype(int) + np.random.default_rng(0).integers(-4, 5, grains[3].shape), 0, 255)
    shifted = np.roll(grains[3], 12, axis=0)
    assert group(np.stack([grains[3], noisy.astype(np.uint8), shifted])) == [0, 0, 2]


def test_same_bytes_join_without_pixels_and_chains_join_completely(grains):
    pixels = np.stack([grains[0], np.zeros_like(grains[0]), np.rot90(grains[0]), np.zeros_like(grains[0]), grains[1]])
    hashes = np.stack([duplicates.perceptual_hash(duplicates.thumbnail(image)) for image in pixels])
    hashes[[1, 3]] = np.nan
    assert duplicates.group_duplicates(["a", "b", "c", "b", "c"], hashes, pixels).tolist() == [0, 1, 0, 1, 0]
    assert duplicates.group_duplicates(["", ""], hashes[[1, 3]], pixels).tolist() == [0, 1]


def test_many_grains_are_grouped_with_their_mirror_images(grains):
    both = np.concatenate([grains, np.flip(grains, axis=2)])
    assert group(both) == [*range(len(grains))] * 2


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), amount=st.integers(0, 60), turn=st.integers(0, 7))
def test_hashes_are_never_further_apart_than_thumbnails(seed, amount, turn):
    """The property that makes the search for candidates miss nothing."""
    random = np.random.default_rng(seed)
    one = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    other = np.clip(one + random.integers(-amount, amount + 1, one.shape), 0, 255).astype(np.uint8)
    turned = np.ascontiguousarray(duplicates.orientations(other)[turn])
    apart = np.linalg.norm(duplicates.perceptual_hash(one) - duplicates.perceptual_hash(turned))
    assert apart <= np.linalg.norm(one.astype(float) - other) + 0.05
