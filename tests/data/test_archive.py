import os
import stat
import zipfile
from pathlib import Path

import pytest
from support.data import archive, images

from rice_lib.common.errors import RiceError
from rice_lib.data import archive as archives


def one_entry(file: Path, name: str, data: bytes = b"x", **attributes: object) -> Path:
    """A zip with a sound Arborio image and one entry more, with the given attributes of `ZipInfo`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("Arborio/Arborio (1).jpg", b"sound")
        target.writestr("Basmati/Basmati (1).jpg", b"sound")
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        for key, value in attributes.items():
            setattr(info, key, value)
        target.writestr(info, data)
    return file


def unpack(file: Path, target: Path) -> int:
    found = archives.list_entries(file)
    archives.extract(file, found, found, target)
    return len(found)


def test_places_images_below_the_variety_root_and_skips_the_rest(tmp_path):
    file = archive(tmp_path / "rice.zip", images(1) | {"Other/odd.png": b"odd"}, prefix="some/where/")
    assert unpack(file, tmp_path / "out") == 6
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert found[0] == "Arborio/Arborio (1).jpg"
    assert "Other/odd.png" in found
    assert not any("Citation" in name for name in found)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "Arborio/../../evil.jpg",
        "Arborio\\..\\evil.jpg",
        "..\\evil.jpg",
        "/etc/evil.jpg",
        "\\etc\\evil.jpg",
    ],
)
def test_names_that_lead_out_are_not_unpacked(tmp_path, name):
    assert unpack(one_entry(tmp_path / "evil.zip", name), tmp_path / "out") == 2
    assert not list(tmp_path.rglob("evil.jpg"))


def test_a_link_in_the_folder_leads_no_image_elsewhere(tmp_path):
    file = one_entry(tmp_path / "rice.zip", "Arborio/Arborio (2).jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "Arborio").symlink_to(tmp_path)
    with pytest.raises(RiceError, match="leads elsewhere"):
        unpack(file, tmp_path / "out")


def test_a_name_too_long_is_one_line(tmp_path):
    with pytest.raises(RiceError, match="cannot be written"):
        unpack(one_entry(tmp_path / "long.zip", "Arborio/" + "n" * 300 + ".jpg"), tmp_path / "out")


def test_what_is_no_image_stays_packed_whatever_it_is(tmp_path):
    """A model of 70 MB, a table that shrinks a thousand times, a link: beside the images of many public sets."""
    file = one_entry(tmp_path / "model.zip", "model.h5", bytes(70 * 1024**2))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as target:
        target.writestr("../features.csv", "0,0,0\n" * 10**6)
        link = zipfile.ZipInfo("latest")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        target.writestr(link, "model.h5")
    assert unpack(file, tmp_path / "out") == 2
    assert {path.suffix for path in (tmp_path / "out").rglob("*.*")} == {".jpg"}


def test_names_written_on_windows_and_long_ones_are_unpacked(tmp_path):
    long = "Arborio/" + "n" * 251 + ".jpg"
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as target:
        target.writestr("set\\Arborio\\", "")
        target.writestr("set\\Arborio\\Arborio (1).jpg", b"first")
        target.writestr("set/" + long, b"second")
        target.writestr("set\\Basmati\\Basmati (1).jpg", b"third")
    assert unpack(tmp_path / "windows.zip", tmp_path / "out") == 3
    assert (tmp_path / "out/Arborio/Arborio (1).jpg").read_bytes() == b"first"
    assert (tmp_path / "out" / long).read_bytes() == b"second"


def test_a_link_is_unpacked_as_the_plain_file_that_it_is_in_the_archive(tmp_path):
    file = one_entry(tmp_path / "link.zip", "Arborio/l.jpg", b"/etc/passwd", external_attr=(stat.S_IFLNK | 0o777) << 16)
    assert unpack(file, tmp_path / "out") == 3
    assert not (tmp_path / "out/Arborio/l.jpg").is_symlink()
    assert (tmp_path / "out/Arborio/l.jpg").read_bytes() == b"/etc/passwd"


def test_encrypted_entries_are_not_unpacked(tmp_path):
    file = one_entry(tmp_path / "secret.zip", "Arborio/s.jpg")
    raw = bytearray(file.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 8] |= 1  # general purpose bit 0 of the last entry in the central directory
    file.write_bytes(raw)
    with pytest.raises(RiceError, match="encrypted"):
        unpack(file, tmp_path / "out")


def test_a_bomb_is_found_by_the_size_of_an_image_and_of_all(tmp_path, monkeypatch):
    bomb = one_entry(tmp_path / "bomb.zip", "Arborio/b.jpg", bytes(65 * 1024**2))
    with pytest.raises(RiceError, match="unsafe, an image of 68,157,440 bytes"):
        archives.list_entries(bomb)
    large = one_entry(tmp_path / "large.zip", "Arborio/b.jpg", os.urandom(3000))
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 3005)
    with pytest.raises(RiceError, match=r"3,010 in all"):
        archives.list_entries(large)


def test_two_sets_in_one_archive_are_an_error(tmp_path):
    file = archive(tmp_path / "two.zip", images(1) | {f"other/{k}": v for k, v in images(1).items()})
    with pytest.raises(RiceError, match="several folders"):
        archives.list_entries(file)


def test_says_what_is_wrong_with_a_file_that_is_no_archive(tmp_path):
    cases = {"no such file": tmp_path / "none.zip", "a folder": tmp_path}
    (tmp_path / "text.zip").write_text("not a zip")
    cases["not a complete zip"] = tmp_path / "text.zip"
    cut = archive(tmp_path / "cut.zip", images(1))
    cut.write_bytes(cut.read_bytes()[:-200])
    cases["complete zip archive"] = cut
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as target:
        target.writestr("readme.txt", "nothing")
    cases["no images"] = tmp_path / "texts.zip"
    with zipfile.ZipFile(tmp_path / "cats.zip", "w") as target:
        target.writestr("cats/cat.jpg", "cat")
    cases[r"found: cats\) in it; at least 2 are needed"] = tmp_path / "cats.zip"
    os.mkfifo(tmp_path / "pipe.zip")
    cases["not a regular file"] = tmp_path / "pipe.zip"
    for says, file in cases.items():
        with pytest.raises(RiceError, match=says):
            archives.list_entries(file)


def test_damaged_content_is_an_error_and_leaves_no_half_file(tmp_path):
    file = tmp_path / "rice.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:
        target.writestr("Arborio/Arborio (1).jpg", b"good content")
        target.writestr("Basmati/Basmati (1).jpg", b"sound")
    file.write_bytes(file.read_bytes().replace(b"good content", b"evil content"))
    with pytest.raises(RiceError, match="cannot be unpacked at 'Arborio/Arborio"):
        unpack(file, tmp_path / "out")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
