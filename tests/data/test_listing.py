import os
import shutil
import unicodedata

import pytest
from support.data import images, write

from rice_lib.common.errors import RiceError
from rice_lib.data.listing import OK, classify, find_class_root, list_images, list_places, session_of, thin
from rice_lib.data.synthetic import VARIETIES


@pytest.mark.parametrize(
    ("path", "label", "number", "status"),
    [
        ("Arborio/Arborio (12).jpg", "Arborio", 12, OK),
        ("Basmati/basmati (2).jpg", "Basmati", 2, OK),
        ("ipsala/IMG_0001.png", "Ipsala", None, OK),
        ("Jasmine/Karacadag (3).jpg", "Jasmine", 3, "mislabelled: the name says Karacadag, the folder Jasmine"),
        ("Jasmine/Karacadagli (3).jpg", "Jasmine", 3, OK),
        ("cats/Arborio (1).jpg", "", 1, "mislabelled: not in a variety's folder"),
        ("Arborio/more/Arborio (1).jpg", "Arborio", 1, OK),
        ("Arborio (1).jpg", "", 1, "mislabelled: not in a variety's folder"),
    ],
)
def test_reads_place_and_name(path, label, number, status):
    image = classify(path, VARIETIES)
    assert (image.path, image.label, image.number, image.status) == (path, label, number, status)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("Basmati 370/Basmati 370 (1).jpg", OK),
        ("Basmati 370/basmati (1).jpg", OK),
        ("Basmati/Basmati 370 (1).jpg", OK),
        ("Riz rond/Basmati 370 (1).jpg", "mislabelled: the name says Basmati 370, the folder Riz rond"),
        ("1/2 (5).jpg", OK),
        ("2/1.jpg", OK),
    ],
)
def test_names_that_begin_each_other_or_are_too_short_to_mean_anything(path, status):
    assert classify(path, ["1", "2", "Basmati", "Basmati 370", "Riz rond"]).status == status


def test_every_folder_is_a_class_whatever_its_name(tmp_path):
    names = [
        "Riz rond",
        "Basmati",
        "Basmati 370",
        "ÅKERRIS",
        "Riz noir \N{COOKED RICE}",
        unicodedata.normalize("NFD", "Ünlü"),
    ]
    write(tmp_path, {f"{name}/img1.jpg": b"" for name in names})
    found = list_images(tmp_path)
    assert {image.label for image in found} == {unicodedata.normalize("NFC", name) for name in names}
    assert {image.path for image in found} == {f"{name}/img1.jpg" for name in names}
    assert {image.status for image in found} == {OK}
    named = list_images(tmp_path, ["Basmati", "ünlü"])
    assert sorted(image.label for image in named) == ["", "", "", "", "Basmati", "ünlü"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["Basmati"], r"classes found: Basmati; at least 2 are needed"),
        (["basmati", "Basmati", "x"], "differ by case alone"),
        (["Unknown", "x"], "class 'Unknown': a name that files of records cannot hold"),
        (["x\ny", "x"], "cannot hold"),
        ([" x", "y"], "cannot hold"),
        (["label", "y"], "cannot hold"),
    ],
)
def test_names_that_no_class_can_have_are_one_clear_line(tmp_path, names, says):
    write(tmp_path, {f"{name}/a.jpg": b"" for name in names})
    with pytest.raises(RiceError, match=says):
        list_images(tmp_path)


def test_lists_images_by_folder_and_number_without_hidden_files(tmp_path):
    names = ["Arborio/Arborio (10).jpg", "Arborio/Arborio (9).jpg", "Arborio/.hidden.jpg", "__MACOSX/Arborio/x.jpg"]
    write(tmp_path, dict.fromkeys([*names, "Arborio/notes.txt", "loose.png"], b""))
    assert [image.path for image in list_images(tmp_path, VARIETIES)] == [
        "loose.png",
        "Arborio/Arborio (9).jpg",
        "Arborio/Arborio (10).jpg",
    ]


def test_whatever_looks_like_an_image_is_listed_and_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "Basmati", dict.fromkeys(("a.jpg", "b.HEIC", "c.webp", "d.tif", "e.jfif", "notes.txt"), b""))
    (tmp_path / "Basmati" / "f.bmp").symlink_to("not fetched")
    found = [image.path.removeprefix("Basmati/") for image in list_images(tmp_path, VARIETIES)]
    assert found == ["a.jpg", "b.HEIC", "c.webp", "d.tif", "e.jfif", "f.bmp"]
    scandir = os.scandir

    def denied(place):
        if os.fspath(place).endswith("Basmati"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(RiceError, match=r"Basmati: the folder cannot be read \(Permission denied\)"):
        list_images(tmp_path, VARIETIES)


def test_thinning_depends_on_seed_and_path_alone():
    listed = list_places([*images(20), "cats/cat.jpg"], VARIETIES)
    few, more = (thin(listed, n, seed=1) for n in (3, 7))
    assert len(few) == 5 * 3 + 1
    assert set(few) < set(more)
    assert set(thin(reversed(listed), 3, seed=1)) == set(few)
    assert set(thin(listed, 3, seed=2)) != set(few)
    assert thin(few, 3, seed=1) == few
    assert thin(listed, None, seed=1) == listed


def test_finds_the_folder_of_class_folders(tmp_path):
    write(tmp_path / "a" / "b", images(1) | {"Arborio/morning/x.jpg": b"", "loose.jpg": b""})
    write(tmp_path, {"notes/sketch.png": b"", "a/.hidden/x/y.jpg": b"", "a/.hidden/z/y.jpg": b""})
    for start in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        assert find_class_root(start) == tmp_path / "a" / "b"
    write(tmp_path / "a" / "c", images(1))
    with pytest.raises(RiceError, match="several folders of varieties") as caught:
        find_class_root(tmp_path)
    assert "name one in data.path, or data.classes" in str(caught.value)
    with pytest.raises(RiceError, match="no such folder"):
        find_class_root(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RiceError, match=r"no folders of images a class \(found: none\)"):
        find_class_root(tmp_path / "empty")
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(RiceError, match=r"a class \(found: notes\) in it; at least 2 are needed"):
        find_class_root(tmp_path)


def test_named_classes_are_found_with_their_sessions(tmp_path):
    places = [f"set/{v}/{day}/img{n}.jpg" for v in ("Riz", "Sushi") for day in ("1 May", "2 May") for n in (1, 2)]
    write(tmp_path, dict.fromkeys([*places, "set/cats/a.jpg", "set/cats/b/a.jpg"], b""))
    with pytest.raises(RiceError, match="several folders of varieties"):
        find_class_root(tmp_path)
    assert find_class_root(tmp_path, ["Riz", "sushi"]) == tmp_path / "set"
    found = list_images(tmp_path / "set", ["Riz", "Sushi"])
    assert {(i.label, session_of(i.path)) for i in found if i.label} == {
        (v, day) for v in ("Riz", "Sushi") for day in ("1 May", "2 May")
    }
    assert [i.status for i in found if not i.label] == ["mislabelled: not in a variety's folder"] * 2
    with pytest.raises(RiceError, match=r"data\.classes: no image of Arborio, Riso in it"):
        find_class_root(tmp_path, ["Arborio", "Riso", "Riz"])
    with pytest.raises(RiceError, match=r"no folders named after a variety \(Arborio, Riso\)"):
        find_class_root(tmp_path, ["Arborio", "Riso"])


def test_a_folder_may_be_a_link_and_one_that_leads_back_ends(tmp_path):
    write(tmp_path / "elsewhere", images(1))
    root = tmp_path / "mine"
    root.mkdir()
    for variety in VARIETIES:
        (root / variety).symlink_to(tmp_path / "elsewhere" / variety)
    (tmp_path / "elsewhere" / "Basmati" / "back").symlink_to(root)
    assert len(list_images(root)) == 5
    assert find_class_root(tmp_path / "mine") == root
