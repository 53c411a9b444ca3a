from pathlib import Path

import kagglehub
import pytest
from PIL import Image
from support.data import archive, images, make_run, write
from support.trays import Setting, compose, synthetic_grains

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json
from rice_lib.contract.decision import ImageScale
from rice_lib.data import manifest, sources
from rice_lib.data.photographs import read_about


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("RICE_DATA", raising=False)


def fetch(run):
    return sources.fetch(run.params.data, run.paths, run.params.seed)


def names(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*.jpg")}


def test_folder_is_read_where_it_lies(tmp_path):
    write(tmp_path / "mine" / "Rice_Image_Dataset", images(1))
    run = make_run(tmp_path, source="folder", path=str(tmp_path / "mine"))
    assert fetch(run) == tmp_path / "mine" / "Rice_Image_Dataset" == sources.locate(run.params.data, run.paths)
    assert not run.paths.images.exists()
    assert "mine" in sources.describe(run.params.data, run.paths)


def test_a_relative_path_starts_at_the_root_whatever_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path / "mine", images(1))
    monkeypatch.chdir("/")
    assert fetch(make_run(tmp_path, source="folder", path="mine")) == tmp_path / "mine"


def test_zip_is_unpacked_thinned_and_recorded(tmp_path):
    file = archive(tmp_path / "rice.zip", images(6))
    run = make_run(tmp_path, source="zip", path=str(file), per_class=2)
    assert fetch(run) == run.paths.images
    first = names(run.paths.images)
    assert len(first) == 10
    assert read_json(run.paths.images / ".source.json")["archive"] == "rice.zip"
    assert "rice.zip" in sources.describe(run.params.data, run.paths)
    assert fetch(run) == run.paths.images
    assert names(run.paths.images) == first


def test_another_configuration_clears_what_was_unpacked_before(tmp_path):
    file = archive(tmp_path / "rice.zip", images(4))
    fetch(make_run(tmp_path, source="zip", path=str(file)))
    run = make_run(tmp_path, source="zip", path=str(file), per_class=1)
    fetch(run)
    assert len(names(run.paths.images)) == 5


def test_files_of_others_are_never_cleared(tmp_path):
    run = make_run(tmp_path, source="synthetic", per_class=1)
    write(run.paths.images, {"precious.jpg": b"mine"})
    with pytest.raises(RiceError, match="did not put there"):
        fetch(run)
    assert (run.paths.images / "precious.jpg").read_bytes() == b"mine"


def test_variable_stands_in_only_where_no_path_is_named(tmp_path, monkeypatch):
    archive(tmp_path / "named.zip", images(1))
    archive(tmp_path / "variable.zip", images(2))
    monkeypatch.setenv("RICE_DATA", str(tmp_path / "variable.zip"))
    named = make_run(tmp_path, source="zip", path=str(tmp_path / "named.zip"))
    assert len(names(fetch(named))) == 5
    assert len(names(fetch(make_run(tmp_path, source="zip")))) == 10
    synthetic = make_run(tmp_path / "other", source="synthetic", per_class=1)
    assert len(names(fetch(synthetic))) == 5


def test_a_source_never_switches_to_another(tmp_path, monkeypatch):
    with pytest.raises(RiceError, match=r"data\.path: name the zip"):
        fetch(make_run(tmp_path, source="zip"))
    with pytest.raises(RiceError, match="RICE_DATA"):
        fetch(make_run(tmp_path, source="folder"))
    write(tmp_path / "folder", images(1))
    monkeypatch.setenv("RICE_DATA", str(tmp_path / "folder"))
    with pytest.raises(RiceError, match=r'set data\.source to "folder"'):
        fetch(make_run(tmp_path, source="zip"))
    with pytest.raises(RiceError, match="no such file"):
        fetch(make_run(tmp_path, source="zip", path=str(tmp_path / "typo.zip")))
    with pytest.raises(RiceError, match=r"data\.per_class"):
        fetch(make_run(tmp_path, source="synthetic"))


def test_unpacked_images_serve_without_their_zip_but_not_another_configuration(tmp_path, capsys, monkeypatch):
    file = archive(tmp_path / "rice.zip", images(2))
    fetch(make_run(tmp_path, source="zip", path=str(file)))
    file.unlink()
    run = make_run(tmp_path, source="zip")
    assert fetch(run) == run.paths.images
    assert "unpacked before" in capsys.readouterr().err
    with pytest.raises(RiceError, match=r"data\.path"):
        fetch(make_run(tmp_path, source="zip", per_class=1))


def test_an_unfinished_fetch_is_not_located(tmp_path, monkeypatch):
    run = make_run(tmp_path, source="synthetic", per_class=2)
    from rice_lib.data import synthetic

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "write_images", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(run)
    with pytest.raises(RiceError, match=r"not fetched yet; .* PROFILE=\w+\)"):
        sources.locate(run.params.data, run.paths)
    assert not [path for path in run.paths.data.rglob("*") if path.is_file()]
    fetch(run)
    assert sources.locate(run.params.data, run.paths) == run.paths.images


def test_kaggle_is_copied_and_then_needs_no_network(tmp_path, monkeypatch):
    cached = write(tmp_path / "kagglehub" / "Rice_Image_Dataset", images(3)).parent
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(cached))
    run = make_run(tmp_path, source="kaggle", per_class=2)
    assert len(names(fetch(run))) == 10
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: pytest.fail("downloaded again"))
    assert fetch(run) == run.paths.images


def test_kaggle_out_of_reach_is_one_clear_line(tmp_path, monkeypatch):
    def unreachable(handle):
        raise ConnectionError("a paragraph\nof machinery")

    monkeypatch.setattr(kagglehub, "dataset_download", unreachable)
    run = make_run(tmp_path, source="kaggle")
    with pytest.raises(RiceError, match="cannot be downloaded from Kaggle") as caught:
        fetch(run)
    assert "\n" not in str(caught.value)
    assert "data.source to zip" in str(caught.value)
    assert not run.paths.images.exists()


def test_photographs_are_cut_once_and_again_when_they_or_the_scale_change(tmp_path):
    for variety in ("Basmati", "Riz rond"):
        (tmp_path / "trays" / variety).mkdir(parents=True)
        tray = compose(synthetic_grains(4), Setting(shape=(450, 600)), len(variety))
        Image.fromarray(tray.image).save(tmp_path / "trays" / variety / "1.png")
    (tmp_path / "trays" / "Basmati" / "Riz rond 2.jpg").write_bytes(b"")
    run = make_run(tmp_path, source="photographs", path="trays", mm_per_pixel=0.05)
    table = manifest.build(run)
    assert table.groupby("label")["photograph"].agg(["size", "nunique"]).values.tolist() == [[4, 1], [4, 1]]
    assert manifest.read_scale(run.paths) == ImageScale("mm", 0.04)
    assert "the photographs in" in sources.describe(run.params.data, run.paths)
    about = read_about(run.paths.images)["photographs"]
    assert [(entry["grains"], entry["error"]) for entry in about] == [
        (4, None), (4, None), (0, "mislabelled: the name says Riz rond, the folder Basmati"),
    ]  # fmt: skip
    made = (run.paths.images / "grains.csv").stat().st_mtime_ns
    fetch(run)
    assert (run.paths.images / "grains.csv").stat().st_mtime_ns == made
    fetch(make_run(tmp_path, source="photographs", path="trays", mm_per_pixel=0.06))
    assert (run.paths.images / "grains.csv").stat().st_mtime_ns != made
    with pytest.raises(RiceError, match="does not go with"):
        fetch(make_run(tmp_path, source="photographs", path="trays", mm_per_pixel=0.06, reference_mm=20.0))
