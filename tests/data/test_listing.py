import os

import pytest
from support.data import images, write

from rice_lib.common.errors import RiceError
from rice_lib.data.listing import OK, classify, find_variety_root, list_images, thin


@pytest.mark.parametrize(
    ("path", "label", "number", "status"),
    [
        ("Arborio/Arborio (12).jpg", "Arborio", 12, OK),
        ("Basmati/basmati (2).jpg", "Basmati", 2, OK),
        ("ipsala/IMG_0001.png", "Ipsala", None, OK),
        ("Jasmine/Karacadag (3).jpg", "Jasmine", 3, "mislabelled: the name says Karacadag, the folder Jasmine"),
        ("cats/Arborio (1).jpg", "", 1, "mislabelled: not in a variety's folder"),
        ("Arborio/more/Arborio (1).jpg", "", 1, "mislabelled: not in a variety's folder"),
        ("Arborio (1).jpg", "", 1, "mislabelled: not in a variety's folder"),
    ],
)
def test_reads_place_and_name(path, label, number, status):
    image = classify(path)
    assert (image.path, image.label, image.number, image.status) == (path, label, number, status)


def test_lists_images_by_folder_and_number_without_hidden_files(tmp_path):
    names = ["Arborio/Arborio (10).jpg", "Arborio/Arborio (9).jpg", "Arborio/.hidden.jpg", "__MACOSX/Arborio/x.jpg"]
    write(tmp_path, dict.fromkeys([*names, "Arborio/notes.txt", "loose.png"], b""))
    assert [image.path for image in list_images(tmp_path)] == [
        "loose.png",
        "Arborio/Arborio (9).jpg",
        "Arborio/Arborio (10).jpg",
    ]


def test_whatever_looks_like_an_image_is_listed_and_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "Basmati", dict.fromkeys(("a.jpg", "b.HEIC", "c.webp", "d.tif", "e.jfif", "notes.txt"), b""))
    (tmp_path / "Basmati" / "f.bmp").symlink_to("not fetched")
    found = [image.path.removeprefix("Basmati/") for image in list_images(tmp_path)]
    assert found == ["a.jpg", "b.HEIC", "c.webp", "d.tif", "e.jfif", "f.bmp"]
    scandir = os.scandir

    def denied(place):
        if os.fspath(place).endswith("Basmati"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(RiceError, match=r"Basmati: the folder cannot be read \(Permission denied\)"):
        list_images(tmp_path)


def test_thinning_depends_on_seed_and_path_alone():
    listed = [classify(path) for path in images(20)] + [classify("cats/cat.jpg")]
    few, more = (thin(listed, n, seed=1) for n in (3, 7))
    assert len(few) == 5 * 3 + 1
    assert set(few) < set(more)
    assert set(thin(reversed(listed), 3, seed=1)) == set(few)
    assert set(thin(listed, 3, seed=2)) != set(few)
    assert thin(few, 3, seed=1) == few
    assert thin(listed, None, seed=1) == listed


def test_finds_the_folder_of_variety_folders(tmp_path):
    write(tmp_path / "a" / "b", images(1))
    for start in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        assert find_variety_root(start) == tmp_path / "a" / "b"
    write(tmp_path / "a" / "c", images(1))
    with pytest.raises(RiceError, match="several folders of varieties"):
        find_variety_root(tmp_path)
    with pytest.raises(RiceError, match="no such folder"):
        find_variety_root(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RiceError, match="no folder named after a variety"):
        find_variety_root(tmp_path / "empty")
