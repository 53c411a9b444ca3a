import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rice_lib.common.errors import RiceError
from rice_lib.common.files import sha256_file, write_text
from rice_lib.common.parameters import DataParams, Params, SplitParams
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.data import manifest, split
from rice_lib.data.listing import OK
from rice_lib.data.synthetic import VARIETIES


def torn_groups(table: pd.DataFrame, frame: pd.DataFrame) -> list[int]:
    """List the groups that a split tears."""
    parts = frame.merge(table[["path", "group"]], on="path", validate="one_to_one").groupby("group")["split"].nunique()
    return parts.index[parts > 1].tolist()


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Count images by variety and part, with totals."""
    return pd.crosstab(frame["label"], frame["split"], margins=True, margins_name="all")[[*split.PARTS, "all"]]


def table_of(sizes: dict[str, list[int]], bad: int = 0) -> pd.DataFrame:
    """A manifest: for each variety the sizes of its duplicate groups, numbers mixed; and a few unusable rows."""
    rows, number, group = [], 0, 0
    for label, groups in sizes.items():
        for size in groups:
            for _ in range(size):
                number += 1
                rows.append((f"{label}/{label} ({number}).jpg", label, (number * 7919) % 10007, group, OK))
            group += 1
    rows += [(f"Arborio/bad{k}.jpg", "Arborio", 1, group + k, "corrupt: it is") for k in range(bad)]
    table = pd.DataFrame(rows, columns=["path", "label", "number", "group", "status"])
    table["number"] = table["number"].astype("Int64")
    return table.assign(photograph="", duplicate=table["group"], bytes=1, sha256="0", width=250, height=250)[
        list(manifest.COLUMNS)
    ]


def table_of_photographs(photographs: dict[str, int], grains: int = 20) -> pd.DataFrame:
    """A manifest of grains cut from so many photographs of each variety; the number of grains varies a little."""
    sizes = {label: [grains + k % 3 - 1 for k in range(count)] for label, count in photographs.items()}
    table = table_of(sizes)
    return table.assign(photograph=table["group"].astype(str) + ".jpg", duplicate=np.arange(len(table)))


def photographs_by_part(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Photographs of each variety (rows) that have grains in each part (columns)."""
    frame = split.random_split(table, SplitParams(), seed).merge(table[["path", "photograph"]], on="path")
    return frame.groupby(["label", "split"])["photograph"].nunique().unstack()[list(split.PARTS)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "parts"), [(3, [1, 1, 1]), (5, [3, 1, 1]), (10, [6, 2, 2])])
def test_a_split_tears_no_photograph_and_tests_on_one_of_each_variety(count, parts, seed):
    table = table_of_photographs({"Basmati": count, "Riz rond": count})
    frame = split.random_split(table, SplitParams(), seed)
    assert not torn_groups(table, frame)
    found = photographs_by_part(table, seed)
    assert found.sum(axis=1).tolist() == [count, count]
    assert np.abs(found.to_numpy() - parts).max() <= (1 if count == 10 else 0)


@pytest.mark.parametrize("seed", range(5))
def test_of_two_photographs_one_tests_and_one_alone_is_divided(seed):
    table = table_of_photographs({"one": 1, "two": 2, "three": 3})
    frame = split.random_split(table, SplitParams(), seed).merge(table[["path", "photograph"]], on="path")
    assert (counts(frame)[list(split.PARTS)] > 0).all(axis=None)
    of_two = frame[frame["label"] == "two"].groupby("split")["photograph"].agg(set)
    assert not of_two["test"] & (of_two["train"] | of_two["validation"])
    assert of_two["train"] == of_two["validation"]
    assert set(torn_groups(table, frame)) == set(
        table.loc[table["photograph"].isin({"0.jpg"} | of_two["train"]), "group"]
    )


group_sizes = st.lists(st.integers(1, 4), min_size=3, max_size=30)
manifests = st.fixed_dictionaries(dict.fromkeys(VARIETIES, group_sizes))
fractions = st.floats(0.05, 0.6)


@settings(max_examples=25, deadline=None)
@given(sizes=manifests, test=fractions, validation=fractions, seed=st.integers(0, 1000))
def test_random_split_properties(sizes, test, validation, seed):
    table = table_of(sizes, bad=2)
    params = SplitParams(test_fraction=test, validation_fraction=validation)
    frame = split.random_split(table, params, seed)
    assert frame["path"].tolist() == manifest.usable(table)["path"].tolist()
    assert not torn_groups(table, frame)
    counted = counts(frame)
    assert (counted[list(split.PARTS)] > 0).all(axis=None)
    for variety in VARIETIES:
        images, largest = sum(sizes[variety]), max(sizes[variety])
        if len(sizes[variety]) > 10:
            assert abs(counted.loc[variety, "test"] - test * images) <= largest
    pd.testing.assert_frame_equal(frame, split.random_split(table, params, seed))


@settings(max_examples=25, deadline=None)
@given(sizes=manifests, after=st.integers(1, 10006), seed=st.integers(0, 1000))
def test_session_split_properties(sizes, after, seed):
    table = table_of(sizes)
    params = SplitParams(session_after=after)
    if split.session_obstacle(table, params):
        with pytest.raises(RiceError, match="no session split"):
            split.session_split(table, params, seed)
        return
    frame = split.session_split(table, params, seed).merge(table, on=["path", "label"])
    assert (frame.loc[frame["number"] > after, "split"] == "test").all()
    assert frame.groupby("group")["split"].nunique().eq(1).all()
    early = frame[frame["split"] == "test"].groupby("group")["number"].max()
    assert (early > after).all()
    assert (counts(frame)[list(split.PARTS)] > 0).all(axis=None)


def test_fractions_are_exact_without_duplicates():
    table = table_of(dict.fromkeys(VARIETIES, [1] * 1500))
    counted = counts(split.random_split(table, SplitParams(), 83))
    assert counted.loc["Jasmine"].tolist() == [960, 240, 300, 1500]
    assert counted.loc["all"].tolist() == [4800, 1200, 1500, 7500]


def test_seeds_differ_and_row_order_of_the_draw_is_random():
    table = table_of(dict.fromkeys(VARIETIES, [1] * 200))
    one, other = (split.random_split(table, SplitParams(), seed) for seed in (83, 84))
    assert (one["split"] != other["split"]).mean() > 0.3
    places = np.flatnonzero(one["split"][:200] == "test")
    assert 70 < places.mean() < 130


def test_a_naive_split_tears_what_ours_keeps():
    table = table_of(dict.fromkeys(VARIETIES, [2] * 100))
    torn = torn_groups(table, split.naive_split(table, SplitParams(), 83))
    assert 150 < len(torn) < 350
    assert table["group"].isin(torn).sum() == 2 * len(torn)
    assert not torn_groups(table, split.random_split(table, SplitParams(), 83))


def test_too_few_images_are_an_error():
    sizes = dict.fromkeys(VARIETIES, [1] * 9)
    with pytest.raises(RiceError, match="2 different usable images of Ipsala"):
        split.random_split(table_of(sizes | {"Ipsala": [5, 1]}), SplitParams(), 83)
    table = table_of(sizes)
    table.loc[table["label"] == "Karacadag", "status"] = "corrupt: it is"
    with pytest.raises(RiceError, match="0 different usable images of Karacadag: at least 3 are needed"):
        split.random_split(table, SplitParams(), 83)


def test_session_obstacles():
    table = table_of(dict.fromkeys(VARIETIES, [1] * 30))
    assert split.session_obstacle(table, SplitParams(session_after=5000)) is None
    assert "no Arborio is numbered above 20,000" in split.session_obstacle(table, SplitParams(session_after=20000))
    assert "fewer than two" in split.session_obstacle(table, SplitParams(session_after=1))
    table.loc[3, "number"] = pd.NA
    assert "1 of 150 images bear no number" in split.session_obstacle(table, SplitParams(session_after=5000))


def test_a_session_is_a_folder_of_the_variety_where_there_are_any():
    table = table_of(dict.fromkeys(VARIETIES, [1] * 30))
    day = pd.Series(["", "/1 May", "/2 May"] * 50)
    table["path"] = table["label"] + day + "/" + table["path"].str.split("/").str[1]
    table["number"] = pd.NA
    table.loc[table["path"].str.contains("1 May"), "group"] += table["label"].eq("Ipsala") * 1  # copies of the last day
    frame = split.session_split(table, SplitParams(), 83).merge(table, on=["path", "label"])
    assert (frame.loc[frame["path"].str.contains("2 May"), "split"] == "test").all()
    others = frame[~frame["path"].str.contains("2 May")]
    assert set(others.loc[others["label"] != "Ipsala", "split"]) == {"train", "validation"}
    assert frame.groupby("group")["split"].nunique().eq(1).all()
    one_day = table[~(table["label"].eq("Basmati") & table["path"].str.contains("May"))]
    assert split.session_obstacle(one_day, SplitParams()) == "Basmati has one session"


def make(tmp_path, table: pd.DataFrame, session_after: int = 5000) -> Run:
    params = Params(profile="t", data=DataParams(source="synthetic"), split=SplitParams(session_after=session_after))
    run = Run(params, Paths(tmp_path, "t"))
    run.paths.manifest.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(run.paths.manifest, index=False)
    return run


def test_files_name_their_manifest_and_read_back(tmp_path):
    run = make(tmp_path, table_of(dict.fromkeys(VARIETIES, [1] * 30)))
    frames = split.make(run)
    assert set(frames) == {"random", "session"}
    lines = run.paths.split("random").read_text().splitlines()
    assert lines[:2] == [f"# manifest {sha256_file(run.paths.manifest)}", "path,label,split"]
    assert len(lines) == 2 + 150
    for scheme, frame in frames.items():
        pd.testing.assert_frame_equal(split.read(run.paths, scheme), frame, check_dtype=False)
    first = run.paths.split("random").read_bytes()
    split.make(run)
    assert run.paths.split("random").read_bytes() == first


def test_a_session_file_that_no_longer_holds_is_removed(tmp_path):
    table = table_of(dict.fromkeys(VARIETIES, [1] * 30))
    split.make(make(tmp_path, table))
    run = make(tmp_path, table, session_after=20000)
    assert set(split.make(run)) == {"random"}
    assert not run.paths.split("session").exists()
    with pytest.raises(RiceError, match="no such split"):
        split.read(run.paths, "session")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.split("\n", 1)[1], "not a split file"),
        (lambda text: text.replace("# manifest ", "# manifest 0"), "made from another manifest"),
        (lambda text: text.replace("path,label,split", "path,label,fold"), "not a split file"),
        (lambda text: text.replace(",train\n", ",training\n"), "not a split file"),
        (lambda text: text.split("\n", 1)[0] + "\n", "not a split file"),
    ],
)
def test_a_spoilt_file_is_an_error(tmp_path, change, says):
    run = make(tmp_path, table_of(dict.fromkeys(VARIETIES, [1] * 30)))
    split.make(run)
    file = run.paths.split("random")
    write_text(file, change(file.read_text()))
    with pytest.raises(RiceError, match=says):
        split.read(run.paths, "random")
