"""Damaged files of every format, by the thousand: each is an error with a reason or decoded, soon and in little memory.

The examples are decoded in a process of their own whose address space is limited, so that a decoder that asks for
gigabytes, or takes the process down, is a failure and no crash of the tests. By hand, for long:

    RICE_FUZZ_EXAMPLES=20000 python -m pytest tests/contract/test_fuzz_decode.py -s
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = int(os.environ.get("RICE_FUZZ_EXAMPLES", "1000"))
PER_EXAMPLE_S = 8.0
"""CPU time of the thread that decodes: an ordinary example takes a millisecond, an image as large as the limits allow
up to 3.5 s (128 MiB pixels with transparency)."""

MEMORY_BYTES = 3 * 2**30
"""Address space: Python and its libraries take up to 1 GiB of it; a 128 MiB pixel image in full, twice, 1 GiB more."""

FUZZER = """
import os, resource, struct, sys, time
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.corpus import ordinary, sample_images
from rice_lib.contract.decode import BadImageError, configure_pillow, decode_with_notes

configure_pillow()
SEEDS = dict(sorted(sample_images().items())) | {{"grain.jpg": ordinary()["jpeg.jpg"]}}
HUGE = [0, 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
decoded, errors = 0, {{}}
slowest = (0.0, "")

@st.composite
def damaged(draw):
    name = draw(st.sampled_from(sorted(SEEDS)))
    data = bytearray(SEEDS[name])
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        # damage near the head changes what a file says of itself: most of it is wanted there, and little in the
        # signature, which ends all
        reach = min(draw(st.sampled_from([32, 128, 700, len(data)])), len(data))
        at = draw(st.integers(min(draw(st.sampled_from([0, 4, 12, 12, 12])), reach - 1), reach - 1))
        kind = draw(st.sampled_from(["flip", "byte", "cut", "drop", "double", "splice", "number", "short"]))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xD8, 0xD9, 0xDA, 0xFE, 0xFF]))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "double":
            length = draw(st.integers(1, 2000))
            data[at:at] = data[at : at + length] * draw(st.integers(1, 20))
        elif kind == "splice":
            other = SEEDS[draw(st.sampled_from(sorted(SEEDS)))]
            start = draw(st.integers(0, len(other) - 1))
            data[at : at + draw(st.integers(0, 64))] = other[start : start + draw(st.integers(1, 400))]
        else:  # lengths, offsets and dimensions
            form = draw(st.sampled_from(["<I", ">I"] if kind == "number" else ["<H", ">H"]))
            value = draw(st.sampled_from(HUGE)) & (2**32 - 1 if kind == "number" else 2**16 - 1)
            data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return name, bytes(data)

@settings(max_examples={examples}, deadline=None, derandomize={derandomize}, database=None,
          suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(damaged())
def fuzz(example):
    global decoded, slowest
    name, data = example
    with open({last!r}, "wb") as last:
        last.write(data)
    begun = time.thread_time()
    try:
        pixels, notes = decode_with_notes(data)
    except BadImageError as error:
        assert str(error) and "\\n" not in str(error), repr(error)
        reason = str(error).split("(")[0].strip()
        errors[reason] = errors.get(reason, 0) + 1
        assert "memory" not in reason, name
    else:
        decoded += 1
        assert isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == (224, 224, 3)
        assert all(isinstance(note, str) and "\\n" not in note for note in notes)
    took = time.thread_time() - begun
    slowest = max(slowest, (took, name))
    assert took < {seconds}, (took, name)

fuzz()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print("decoded", decoded, "errors", sum(errors.values()), "slowest %.2f s %s" % slowest, "peak", peak, "MB")
for reason, count in sorted(errors.items(), key=lambda pair: -pair[1]):
    print(count, reason)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> subprocess.CompletedProcess[str]:
    """The fuzzing, done."""
    folder = tmp_path_factory.mktemp("fuzz")
    code = FUZZER.format(
        memory=MEMORY_BYTES,
        examples=EXAMPLES,
        seconds=PER_EXAMPLE_S,
        last=str(folder / "last.bin"),
        derandomize="RICE_FUZZ_EXAMPLES" not in os.environ,
    )
    (folder / "fuzzer.py").write_text(code)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(folder / "fuzzer.py")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_damaged_files_are_errors_or_decoded(done):
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-6000:]}"
    print(done.stdout)
    words = done.stdout.split()
    decoded, errors = int(words[1]), int(words[3])
    assert decoded > EXAMPLES // 50, "the damage is too great to get past a header"
    assert errors > EXAMPLES // 4, "the damage is too small to be noticed"


def test_no_decoder_writes_to_the_terminal(done):
    assert not done.stderr
