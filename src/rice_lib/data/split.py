"""Who trains, who validates, who tests.

`random`: each variety's images in random order, a fifth to test, a fifth of the rest to validation,
duplicates always together. `session`: the images numbered above `split.session_after` test, which holds out a
capture session that training never saw. A split file names the manifest it was made from, and is of no use
with another.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rice_lib.common.classes import LABEL_TO_ID, VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.common.parameters import SplitParams
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.data import manifest as manifests

PARTS = ("train", "validation", "test")
SCHEMES = ("random", "session")

_HEADER = "# manifest "


def make(run: Run) -> dict[str, pd.DataFrame]:
    """Divide the manifest's usable images by every scheme that they allow, and write the split files.

    Returns:
        Scheme to table (path, label, split; the manifest's order). `session` is absent, and its file removed,
        where `session_obstacle` has something to say.

    Raises:
        RiceError: no manifest, or too few images of a variety.
    """
    table = manifests.read(run.paths)
    digest = manifests.manifest_hash(run.paths)
    splits = {"random": random_split(table, run.params.split, run.params.seed)}
    if session_obstacle(table, run.params.split) is None:
        splits["session"] = session_split(table, run.params.split, run.params.seed)
    else:
        run.paths.split("session").unlink(missing_ok=True)
    for scheme, frame in splits.items():
        text = f"{_HEADER}{digest}\n" + frame.to_csv(index=False, lineterminator="\n")
        with atomic_path(run.paths.split(scheme)) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return splits


def read(paths: Paths, scheme: str) -> pd.DataFrame:
    """A scheme's split (path, label, split).

    Raises:
        RiceError: no such file, not a split file, or one made from another manifest.
    """
    if scheme not in SCHEMES:
        raise RiceError(f"no split scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    file = paths.split(scheme)
    if not file.is_file():
        raise RiceError(f"{file}: no such split; notebook 02_split writes it where the images allow it")
    with file.open(encoding="utf-8", newline="") as stream:
        first = stream.readline().rstrip("\n")
        if first != _HEADER + manifests.manifest_hash(paths):
            what = "made from another manifest" if first.startswith(_HEADER) else "not a split file"
            raise RiceError(f"{file}: {what}; run notebook 02_split again")
        try:
            frame = pd.read_csv(stream, dtype=str, keep_default_na=False)
        except ValueError as error:
            raise RiceError(f"{file}: damaged ({' '.join(str(error).split())}); run notebook 02_split again") from None
    if list(frame.columns) != ["path", "label", "split"] or not set(frame["split"]) <= set(PARTS):
        raise RiceError(f"{file}: not a split file; run notebook 02_split again")
    return frame


def random_split(table: pd.DataFrame, params: SplitParams, seed: int) -> pd.DataFrame:
    """The `random` scheme on a manifest: stratified, groups whole, the same for the same manifest and
    seed."""
    images = _usable(table)
    parts = _draw(images, params.test_fraction, "test", seed, spare=2)
    return _frame(images, _draw_validation(images, parts, params, seed))


def session_split(table: pd.DataFrame, params: SplitParams, seed: int) -> pd.DataFrame:
    """The `session` scheme on a manifest: numbers above `session_after` test, with every duplicate of theirs.

    Raises:
        RiceError: the images do not allow it.
    """
    if obstacle := session_obstacle(table, params):
        raise RiceError(f"no session split: {obstacle}")
    images = _usable(table)
    parts = np.where(_late(images, params), "test", "")
    return _frame(images, _draw_validation(images, parts, params, seed))


def session_obstacle(table: pd.DataFrame, params: SplitParams) -> str | None:
    """Why the images do not allow the `session` scheme, in a clause; None where they do."""
    images = manifests.usable(table)
    if unnumbered := int(images["number"].isna().sum()):
        return f"{unnumbered:,} of {len(images):,} images bear no number in their names"
    late = _late(images, params)
    for variety in VARIETIES:
        of_variety = (images["label"] == variety).to_numpy()
        if not (of_variety & late).any():
            return f"no {variety} is numbered above {params.session_after:,}"
        if images.loc[of_variety & ~late, "group"].nunique() < 2:
            return f"fewer than two {variety} are numbered {params.session_after:,} or less"
    return None


def torn_groups(table: pd.DataFrame, split: pd.DataFrame) -> pd.DataFrame:
    """Duplicate groups that a split tears: columns group, images, and the number of images in each part."""
    parts = split.merge(table[["path", "group"]], on="path", validate="one_to_one")
    counts = parts.groupby(["group", "split"]).size().unstack(fill_value=0).reindex(columns=list(PARTS), fill_value=0)
    torn = counts[(counts > 0).sum(axis=1) > 1]
    return torn.assign(images=torn.sum(axis=1)).reset_index().rename_axis(columns=None)


def naive_split(table: pd.DataFrame, params: SplitParams, seed: int) -> pd.DataFrame:
    """What most projects do, for comparison only: the `random` scheme that knows nothing of duplicates."""
    return random_split(table.assign(group=np.arange(len(table))), params, seed)


def counts(split: pd.DataFrame) -> pd.DataFrame:
    """Images by variety (rows) and part (columns), with totals."""
    table = pd.crosstab(split["label"], split["split"]).reindex(VARIETIES, fill_value=0)
    table = table.reindex(columns=list(PARTS), fill_value=0)
    table.loc["all"] = table.sum()
    return table.assign(all=table.sum(axis=1)).rename_axis(index=None, columns=None)


def _usable(table: pd.DataFrame) -> pd.DataFrame:
    """The usable images; raises `RiceError` where a variety has too few to have one in each part."""
    images = manifests.usable(table)
    groups = images.groupby("label")["group"].nunique()
    for variety in VARIETIES:
        if (found := groups.get(variety, 0)) < len(PARTS):
            raise RiceError(f"{found} different usable images of {variety}: at least {len(PARTS)} are needed to split")
    return images


def _late(images: pd.DataFrame, params: SplitParams) -> np.ndarray:
    """bool `[n]`: numbered above `session_after`, or a duplicate of one that is."""
    late = (images["number"] > params.session_after).fillna(False).astype(bool)
    return late.groupby(images["group"]).transform("any").to_numpy()


def _draw_validation(images: pd.DataFrame, parts: np.ndarray, params: SplitParams, seed: int) -> np.ndarray:
    left = parts == ""
    parts = parts.astype(object)
    parts[left] = _draw(images[left], params.validation_fraction, "validation", seed + 1, spare=1)
    parts[parts == ""] = "train"
    return parts


def _draw(images: pd.DataFrame, fraction: float, part: str, seed: int, spare: int) -> np.ndarray:
    """`part` for that fraction of each variety's images (rounded), empty for the others.

    One group at least is drawn, and `spare` groups at least are left for the parts that come after.
    """
    drawn = np.full(len(images), "", dtype=object)
    labels, groups = images["label"].to_numpy(), images["group"].to_numpy()
    for variety in VARIETIES:
        rows = np.flatnonzero(labels == variety)
        names, sizes = np.unique(groups[rows], return_counts=True)
        order = np.random.default_rng([seed, LABEL_TO_ID[variety]]).permutation(len(names))
        taken = order[_fill(sizes[order], round(fraction * len(rows)), len(names) - spare)]
        drawn[rows[np.isin(groups[rows], names[taken])]] = part
    return drawn


def _fill(sizes: np.ndarray, room: int, most: int) -> list[int]:
    """Positions of groups, the first ones that fit into `room` images, `most` at most; the smallest if none fits."""
    taken: list[int] = []
    for place, size in enumerate(sizes):
        if size <= room and len(taken) < most:
            taken.append(place)
            room -= size
    return taken or [int(np.argmin(sizes))]


def _frame(images: pd.DataFrame, parts: np.ndarray) -> pd.DataFrame:
    frame = images[["path", "label"]].assign(split=parts)
    return frame.reset_index(drop=True)
