import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.data import grain, images, make_run, png, real_images, write

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json, sha256_file, write_csv, write_json
from rice_lib.contract.decision import ImageScale
from rice_lib.contract.decode import decode
from rice_lib.data import decoding, loading, manifest, photographs, split
from rice_lib.data.listing import OK
from rice_lib.data.synthetic import VARIETIES


def problems(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table["status"] != OK, ["path", "status"]]


def folder_run(tmp_path, files, **data):
    write(tmp_path / "mine", files)
    return make_run(tmp_path, source="folder", path=str(tmp_path / "mine"), **data)


def test_one_row_an_image_and_its_pixels_in_the_same_row(tmp_path):
    files = images(3)
    run = folder_run(tmp_path, files)
    built = manifest.build(run)
    table = manifest.read(run.paths)
    pd.testing.assert_frame_equal(built, table)
    assert table["path"].tolist() == sorted(files)
    assert set(table["status"]) == {OK}
    first = table.iloc[0]
    assert (first["label"], first["number"], first["width"], first["height"]) == ("Arborio", 1, 250, 250)
    assert first["bytes"] == len(files[first["path"]])
    assert first["sha256"] == sha256_file(tmp_path / "mine" / first["path"])
    cached = loading.open_cache(run.paths)
    for row, path in enumerate(table["path"]):
        np.testing.assert_array_equal(cached[row], decode(files[path]))
    assert read_json(run.paths.labels) == {
        "labels2id": {"Arborio": 0, "Basmati": 1, "Ipsala": 2, "Jasmine": 3, "Karacadag": 4},
        "id2labels": {"0": "Arborio", "1": "Basmati", "2": "Ipsala", "3": "Jasmine", "4": "Karacadag"},
    }


def test_grains_of_one_photograph_are_one_group(tmp_path):
    files = {f"{v}/tray ({p})-{n:03}.png": png(np.asarray(decode(grain(v, 10 * p + n))))
             for v in ("Arborio", "Basmati") for p in (1, 2) for n in (1, 2)}  # fmt: skip
    files["Basmati/tray (1)-003.png"] = files["Basmati/tray (2)-001.png"]  # one grain on two photographs joins them
    run = folder_run(tmp_path, files)
    rows = [[path, f"{path.split('-')[0]}.jpg", *[0] * (len(photographs.COLUMNS) - 2)] for path in files]
    write_csv(tmp_path / "mine" / photographs.GRAINS, photographs.COLUMNS, rows)
    write_json(tmp_path / "mine" / photographs.ABOUT, {"scale": {"unit": "mm", "per_pixel": 0.04}, "photographs": []})
    table = manifest.build(run)
    pd.testing.assert_frame_equal(table, manifest.read(run.paths))
    assert table["group"].tolist() == [0, 0, 2, 2, 4, 4, 4, 4, 4]
    assert table["duplicate"].tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 8]
    assert table["number"].tolist() == [1, 1, 2, 2, 1, 1, 1, 2, 2]
    assert manifest.read_scale(run.paths) == ImageScale("mm", 0.04)
    assert set(table["status"]) == {OK}


def test_bad_files_are_listed_and_in_no_split(tmp_path):
    good = images(4)
    bad = {
        "Arborio/Arborio (90).jpg": b"",
        "Arborio/Arborio (91).jpg": grain("Arborio", 91)[:900],
        "Arborio/Arborio (92).jpg": b"no image at all",
        "Basmati/Arborio (93).jpg": grain("Arborio", 93),
        "cats/cat.jpg": grain("Jasmine", 94),
        "loose.jpg": grain("Jasmine", 95),
        "Ipsala/Ipsala (96).png": png(np.zeros((50, 60, 3), np.uint8)),
        "Ipsala/Ipsala (97).jpg": grain("Karacadag", 98),
        "Karacadag/Karacadag (98).jpg": grain("Karacadag", 98),
    }
    run = folder_run(tmp_path, good | bad, classes=list(VARIETIES))
    table = manifest.build(run).set_index("path")
    says = dict(
        zip(bad, ["empty: ", "corrupt: ", "corrupt: ", "mislabelled: the name says Arborio", "mislabelled: not in",
                  "mislabelled: not in", "empty: no pixel", *["mislabelled: the same photograph lies under"] * 2],
            strict=True)
    )  # fmt: skip
    for path, start in says.items():
        assert table.loc[path, "status"].startswith(start), (path, table.loc[path, "status"])
    assert set(table.loc[list(good), "status"]) == {OK}
    assert set(problems(manifest.read(run.paths))["path"]) == set(bad)
    assert set(split.make(run)["random"]["path"]) == set(good)
    cached = loading.open_cache(run.paths)
    row = list(table.index).index("Arborio/Arborio (91).jpg")
    assert not cached[row].any()


def test_duplicates_share_a_group(tmp_path):
    files = images(3)
    files["Ipsala/Ipsala (50).jpg"] = files["Ipsala/Ipsala (2).jpg"]
    files["Jasmine/Jasmine (50).png"] = png(np.rot90(decode(files["Jasmine/Jasmine (1).jpg"])).copy())
    run = folder_run(tmp_path, files)
    table = manifest.build(run).set_index("path")
    assert table.loc["Ipsala/Ipsala (50).jpg", "group"] == table.loc["Ipsala/Ipsala (2).jpg", "group"]
    assert table.loc["Jasmine/Jasmine (50).png", "group"] == table.loc["Jasmine/Jasmine (1).jpg", "group"]
    assert table["group"].nunique() == 15
    assert table["duplicate"].nunique() == 15


def test_the_pool_of_processes_finds_the_same(tmp_path, monkeypatch):
    run = folder_run(tmp_path, images(2) | {"Arborio/Arborio (9).jpg": b"bad"}, workers=2)
    alone = manifest.build(run)
    before = np.array(loading.open_cache(run.paths))
    monkeypatch.setattr(decoding, "POOL_FROM", 1)
    monkeypatch.setattr(decoding, "CHUNK", 4)
    pd.testing.assert_frame_equal(manifest.build(run), alone)
    np.testing.assert_array_equal(loading.open_cache(run.paths), before)


def test_rebuilding_gives_the_same_hash_and_thinning_is_seeded(tmp_path):
    run = folder_run(tmp_path, images(6), per_class=2)
    first = manifest.build(run)
    digest = sha256_file(run.paths.manifest)
    manifest.build(run)
    assert sha256_file(run.paths.manifest) == digest
    assert first["label"].value_counts().tolist() == [2] * 5
    other = make_run(tmp_path, seed=1, **run.params.data.model_dump())
    assert manifest.build(other)["path"].tolist() != first["path"].tolist()


def test_odd_names_survive_the_csv(tmp_path):
    stems = ('#1, "odd"', "ünïcode (3)", "new\nline", "a\rb", "a\r\nb", "NA")
    names = [f"Arborio/{stem}.jpg" for stem in stems]
    run = folder_run(tmp_path, images(3) | {name: grain("Arborio", 10 + k) for k, name in enumerate(names)})
    write(tmp_path / "mine", {os.fsdecode(b"Arborio/latin\xe9.jpg"): grain("Arborio", 30)})
    table = manifest.build(run)
    pd.testing.assert_frame_equal(table, manifest.read(run.paths))
    assert set(table.loc[table["path"].isin(names), "status"]) == {OK}
    assert problems(table).values.tolist() == [["Arborio/latin\\udce9.jpg", "corrupt: the file's name is not UTF-8"]]
    frames = split.make(run)
    assert set(frames) == {"random"}
    pd.testing.assert_frame_equal(split.read(run.paths, "random"), frames["random"], check_dtype=False)


def test_only_regular_files_are_read(tmp_path):
    """Opening a named pipe would wait for its writer, and `/dev/zero` has no end."""
    run = folder_run(tmp_path, images(3))
    folder = tmp_path / "mine/Arborio"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zeros.jpg").symlink_to("/dev/zero")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    table = manifest.build(run)
    assert problems(table).values.tolist() == [
        ["Arborio/gone.jpg", "corrupt: a link to a file that is not there"],
        ["Arborio/pipe.jpg", "corrupt: is a named pipe, not a file"],
        ["Arborio/zeros.jpg", "corrupt: is a device, not a file"],
    ]


def test_no_image_no_manifest_and_a_foreign_file_are_errors(tmp_path):
    run = folder_run(tmp_path, {"Arborio/readme.txt": b""})
    with pytest.raises(RiceError, match="no folders of images a class"):
        manifest.build(run)
    with pytest.raises(RiceError, match=rf"no manifest; run notebook 01_eda \(.* PROFILE={run.paths.profile}\) first"):
        manifest.read(run.paths)
    write(run.paths.data, {"manifest.csv": b"a,b\n1,2\n"})
    with pytest.raises(RiceError, match="not a manifest"):
        manifest.read(run.paths)
    write(run.paths.data, {"manifest.csv": b"\x00\xff"})
    with pytest.raises(RiceError, match="not a manifest"):
        manifest.read(run.paths)


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    run = folder_run(tmp_path, images(1))

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(RiceError, match=r"no room for 0\.0 GB"):
        manifest.build(run)
    assert not [p for p in run.paths.cache.rglob("*") if p.is_file()]
    assert not run.paths.manifest.exists()


def test_the_cache_comes_back_from_manifest_and_images(tmp_path):
    run = folder_run(tmp_path, images(2))
    manifest.build(run)
    before = np.array(loading.open_cache(run.paths))
    (run.paths.cache / "cache.json").unlink()
    assert manifest.restore(run)
    np.testing.assert_array_equal(loading.open_cache(run.paths), before)


@pytest.mark.parametrize("damage", [lambda n: [0, *range(n)], lambda n: [*range(1, n), 0]])
def test_rows_that_read_back_otherwise_do_not_reach_the_cache(tmp_path, monkeypatch, damage):
    """As where a reader took a name's carriage return for a line's end: the file is the same, its rows are not."""
    run = folder_run(tmp_path, images(2))
    manifest.build(run)
    table = manifest.read(run.paths)
    monkeypatch.setattr(manifest, "read", lambda _: table.iloc[damage(len(table))])
    with pytest.raises(RiceError, match="belongs to another manifest"):
        loading.open_cache(run.paths)


@pytest.mark.real
@pytest.mark.slow
def test_real_images(tmp_path):
    """A sample of the real set: every file sound, 250 x 250, and the copies inside Ipsala found."""
    source = real_images()
    kind = "folder" if source.is_dir() else "zip"
    run = make_run(tmp_path, source=kind, path=str(source), per_class=400, session_after=12000)
    start = time.perf_counter()
    table = manifest.build(run)
    print(f"{len(table):,} images in {time.perf_counter() - start:.1f} s")
    assert len(table) == 2000
    assert set(table["status"]) == {OK}
    assert set(table["width"]) == set(table["height"]) == {250}
    assert set(table.loc[table["group"].duplicated(), "label"]) <= {"Ipsala"}
    schemes = split.make(run)
    assert set(schemes) == {"random", "session"}
    assert set(schemes["session"]["label"]) == set(VARIETIES)
