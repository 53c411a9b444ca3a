"""The pool of processes that decodes a set's files."""

import struct

import numpy as np
from PIL import Image
from support.corpus import encoded

from rice_lib.data import decoding


def test_the_pools_workers_keep_pillows_warnings_off_the_terminal(tmp_path, monkeypatch, capfd):
    """As commands and servers do (`configure_pillow`): its limit and its memory are set by the same call."""
    tag = struct.pack("<HHI", 270, 2, 51)  # a description that says it is longer than the file
    data = encoded(Image.new("RGB", (30, 30), (200, 200, 200)), "TIFF", description="x" * 50)
    data = data.replace(tag, tag[:4] + struct.pack("<I", 10**7))
    files = [tmp_path / f"{number}.jpg" for number in range(130)]
    for file in files:
        file.write_bytes(data)
    monkeypatch.setattr(decoding, "POOL_FROM", 1)
    found = decoding.decode_all(files, tmp_path / "cache.npy", workers=2)
    assert {file.status for file in found} == {"ok"}
    assert np.load(tmp_path / "cache.npy", mmap_mode="r")[-1].max() == 200
    assert "Warning" not in capfd.readouterr().err
