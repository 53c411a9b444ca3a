import pickle

import numpy as np
import pytest
from support.data import images, make_run, write

from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import decode
from rice_lib.data import loading, manifest, split
from rice_lib.data.synthetic import VARIETIES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("loading")
    write(root / "mine", images(6) | {"Arborio/Arborio (90).jpg": b"broken"})
    run = make_run(root, source="folder", path="mine")
    manifest.build(run)
    split.make(run)
    return run


@pytest.mark.parametrize("scheme", ["random", "session"])
def test_parts_hold_their_images_with_their_labels(run, scheme):
    seen = []
    for part in split.PARTS:
        examples = loading.open_examples(run.paths, scheme, part)
        assert len(examples) == len(examples.paths) == len(examples.labels) > 0
        assert examples.classes == examples.take(np.arange(1)).classes == VARIETIES
        for k, path in enumerate(examples.paths):
            assert examples.labels[k] == VARIETIES.index(path.split("/")[0])
            expected = decode(run.paths.root / "mine" / path)
            np.testing.assert_array_equal(examples.batch(np.array([k]))[0], expected)
        seen += examples.paths
    assert sorted(seen) == sorted(images(6))


def test_batches_are_fresh_contiguous_arrays(run):
    examples = loading.open_examples(run.paths, "random", "train")
    batch = examples.batch(np.array([3, 0, 3]))
    assert batch.shape == (3, 224, 224, 3)
    assert batch.dtype == np.uint8
    assert batch.flags.c_contiguous
    assert batch.flags.writeable
    assert type(batch) is np.ndarray
    batch[:] = 0
    assert examples.batch(np.array([3])).any()
    sizes = [len(pixels) for pixels in examples.batches(7)]
    assert sizes == [7] * (len(examples) // 7) + [len(examples) % 7] * bool(len(examples) % 7)
    together = np.concatenate(list(examples.batches(7)))
    np.testing.assert_array_equal(together, examples.batch(slice(None)))


def test_take_keeps_order_and_reads_nothing(run):
    examples = loading.open_examples(run.paths, "random", "train")
    taken = examples.take(np.array([4, 1]))
    assert taken.paths == [examples.paths[4], examples.paths[1]]
    assert taken.pixels is examples.pixels
    np.testing.assert_array_equal(taken.batch(slice(None)), examples.batch(np.array([4, 1])))
    assert len(examples.take(np.array([], dtype=int))) == 0


def test_pickling_carries_a_file_name_not_pixels(run):
    examples = loading.open_examples(run.paths, "random", "train")
    packed = pickle.dumps(examples)
    assert len(packed) < 10_000
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.batch(slice(None)), examples.batch(slice(None)))


def test_the_cache_cannot_be_written_through(run):
    with pytest.raises(ValueError, match="read-only"):
        loading.open_cache(run.paths)[0, 0, 0, 0] = 1


def test_what_does_not_belong_together_is_an_error(run, tmp_path):
    for scheme, part, says in (
        ("random", "training", "no part 'training'"),
        ("rnd", "test", r"rnd\.csv: no such split"),
    ):
        with pytest.raises(RiceError, match=says):
            loading.open_examples(run.paths, scheme, part)
    other = make_run(tmp_path, source="folder", path="mine")
    with pytest.raises(RiceError, match="no manifest; run notebook 01_eda"):
        loading.open_cache(other.paths)
    write(tmp_path / "mine", images(4))
    manifest.build(other)
    with pytest.raises(RiceError, match="no such split"):
        loading.open_examples(other.paths, "random", "test")
    split.make(other)
    header, first, second, *rows = other.paths.manifest.read_text().splitlines(keepends=True)
    other.paths.manifest.write_text("".join([header, second, first, *rows]))
    with pytest.raises(RiceError, match="belongs to another manifest"):
        loading.open_examples(other.paths, "random", "test")
    with pytest.raises(RiceError, match="made from another manifest"):
        split.read(other.paths, "random")
    manifest.build(other)
    pixels = other.paths.cache / "pixels.npy"
    pixels.write_bytes(pixels.read_bytes()[:5000])
    with pytest.raises(RiceError, match="damaged"):
        loading.open_cache(other.paths)
    pixels.unlink()
    with pytest.raises(RiceError, match="no pixel cache"):
        loading.open_cache(other.paths)
