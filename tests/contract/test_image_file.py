"""What a file is: recognised by its bytes, read without waiting, and otherwise a reason of one line."""

import os
import sys

import pytest
from support.corpus import (
    foreign_files,
    ordinary,
    sample_images,
)

from rice_lib.contract.decode import BadImageError, decode


def test_heic_names_its_library_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImageError, match=r"^HEIC needs pillow-heif, not installed here: .*'rice-lib\[heic\]'$"):
        decode(foreign_files()["photo.heic"][0])


@pytest.mark.parametrize("name", foreign_files())
def test_what_is_no_image_gets_a_reason_of_one_line(name):
    data, reason = foreign_files()[name]
    with pytest.raises(BadImageError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sample_images())
def test_a_file_cut_anywhere_is_an_error_or_complete(name):
    data = sample_images()[name]
    reasons: list[str] = []
    for end in range(0, len(data), max(1, len(data) // 40)):
        try:
            decode(data[:end])
        except BadImageError as error:
            reasons.append(str(error))
    # the first of several frames is complete long before the file's end
    assert not any("\n" in reason for reason in reasons)
    assert len(reasons) >= (8 if name.startswith(("animated", "pages")) else 20)


def test_a_pipe_or_device_is_an_error_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, kind in ((tmp_path / "pipe.jpg", "named pipe"), ("/dev/zero", "device"), (tmp_path, "folder")):
        with pytest.raises(BadImageError, match=kind):
            decode(path)


def test_a_file_that_vanishes_is_a_reason(tmp_path, monkeypatch):
    file = tmp_path / "a.jpg"
    file.write_bytes(ordinary()["jpeg.jpg"])
    stat = os.stat

    def stat_then_gone(path, *rest, **options):
        found = stat(path, *rest, **options)
        file.unlink(missing_ok=True)
        return found

    monkeypatch.setattr("rice_lib.contract.image_file.os.stat", stat_then_gone)
    with pytest.raises(BadImageError, match=r"^no such file$"):
        decode(file)


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg"])
def test_a_name_that_no_file_can_have_is_a_reason(name):
    with pytest.raises(BadImageError, match="not a name"):
        decode(name)
