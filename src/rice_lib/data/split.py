"""Divide the images into training, validation and test.

`random`: stratified by variety, duplicates always together. `session`: the last session of each variety tests, which
is the last of the folders inside the variety's, or where there is none, the images numbered above
`split.session_after`. A split file names the manifest it was made from, and fits no other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rice_lib.common.errors import RiceError
from rice_lib.common.files import sha256_file, write_csv
from rice_lib.common.parameters import SplitParams
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.data import manifest as manifests
from rice_lib.data.listing import session_of

PARTS = ("train", "validation", "test")
SCHEMES = ("random", "session")
COLUMNS = ("path", "label", "split")
_MANIFEST = "# manifest "


def make(run: Run) -> dict[str, pd.DataFrame]:
    """Divide the manifest's usable images by every scheme that they allow; write and return the tables by scheme."""
    table = manifests.read(run.paths)
    splits = {"random": random_split(table, run.params.split, run.params.seed)}
    if session_obstacle(table, run.params.split) is None:
        splits["session"] = session_split(table, run.params.split, run.params.seed)
    else:
        run.paths.split("session").unlink(missing_ok=True)
    comment = _MANIFEST + sha256_file(run.paths.manifest)
    for scheme, frame in splits.items():
        write_csv(run.paths.split(scheme), COLUMNS, frame.itertuples(index=False), comment)
    return splits


def read(paths: Paths, scheme: str) -> pd.DataFrame:
    """Read a scheme's split (path, label, split); raises `RiceError` for none, another file, or another manifest's."""
    file = paths.split(scheme)
    if not file.is_file():
        raise RiceError(f"{file}: no such split; {paths.run('02_split')}, which writes it where the images allow it")
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            made_from = stream.readline().rstrip()
            table = pd.read_csv(stream, dtype=str, keep_default_na=False)
        if tuple(table.columns) != COLUMNS or not made_from.startswith(_MANIFEST) or not {*table["split"]} <= {*PARTS}:
            raise ValueError("another header, no manifest, or unknown parts")
    except ValueError as error:
        raise RiceError(f"{file}: not a split file ({error}); {paths.run('02_split')} again") from None
    if made_from != _MANIFEST + sha256_file(paths.manifest):
        raise RiceError(f"{file}: made from another manifest; {paths.run('02_split')} again")
    return table


def random_split(table: pd.DataFrame, params: SplitParams, seed: int) -> pd.DataFrame:
    """Divide a manifest by the `random` scheme: stratified, groups together, the same for the same seed."""
    images = _usable(table)
    return _draw_validation(images, _draw(images, params.test_fraction, "test", seed, spare=2), params, seed)


def session_split(table: pd.DataFrame, params: SplitParams, seed: int) -> pd.DataFrame:
    """Divide a manifest by the `session` scheme: the last sessions test, with all their duplicates."""
    if obstacle := session_obstacle(table, params):
        raise RiceError(f"no session split: {obstacle}")
    images = _usable(table)
    return _draw_validation(images, np.where(_late(images, params), "test", "").astype(object), params, seed)


def session_obstacle(table: pd.DataFrame, params: SplitParams) -> str | None:
    """Say in a clause why the images do not allow the `session` scheme; return None where they do."""
    images = manifests.usable(table)
    named = images["path"].map(session_of).ne("").any()
    if not named and (unnumbered := int(images["number"].isna().sum())):
        return f"{unnumbered:,} of {len(images):,} images bear no number in their names"
    late, after = _late(images, params), f"{params.session_after:,}"
    for variety in manifests.class_names(images):
        of_variety = (images["label"] == variety).to_numpy()
        if not (of_variety & late).any():
            return f"{variety} has one session" if named else f"no {variety} is numbered above {after}"
        if images.loc[of_variety & ~late, "group"].nunique() < 2:
            where = "not in its last session" if named else f"numbered {after} or less"
            return f"fewer than two {variety} are {where}"
    return None


def naive_split(table: pd.DataFrame, params: SplitParams, seed: int) -> pd.DataFrame:
    """Divide as most projects do, for comparison only: the `random` scheme that knows nothing of duplicates."""
    return random_split(table.assign(group=np.arange(len(table)), duplicate=np.arange(len(table))), params, seed)


def _usable(table: pd.DataFrame) -> pd.DataFrame:
    """Take the usable images; raises `RiceError` where a variety has too few to have one in each part."""
    images = manifests.usable(table)
    groups = images.groupby("label")["duplicate"].nunique()
    for variety in manifests.class_names(table):
        if (found := groups.get(variety, 0)) < len(PARTS):
            raise RiceError(f"{found} different usable images of {variety}: at least {len(PARTS)} are needed to split")
    return images


def _late(images: pd.DataFrame, params: SplitParams) -> np.ndarray:
    """Find the images of the last sessions, and duplicates of such: bool `[n]`."""
    sessions = images["path"].map(session_of)
    if sessions.ne("").any():
        of_variety = sessions.groupby(images["label"])
        late = (sessions == of_variety.transform("max")) & (of_variety.transform("nunique") > 1)
    else:
        late = (images["number"] > params.session_after).fillna(False).astype(bool)
    return late.groupby(images["group"]).transform("any").to_numpy()


def _draw_validation(images: pd.DataFrame, parts: np.ndarray, params: SplitParams, seed: int) -> pd.DataFrame:
    """Divide the images that are not in `parts` yet into validation and training; returns the split."""
    left = parts == ""
    parts[left] = _draw(images[left], params.validation_fraction, "validation", seed + 1, spare=1)
    parts[parts == ""] = "train"
    return images[["path", "label"]].assign(split=parts).reset_index(drop=True)


def _draw(images: pd.DataFrame, fraction: float, part: str, seed: int, spare: int) -> np.ndarray:
    """Give `part` to that fraction of each variety's images (rounded), an empty name to the others.

    Draws groups in random order while they fit, at least one (else the smallest), and leaves `spare` at least. Where a
    variety's images are one group, all of them grains of one photograph, it is divided.
    """
    drawn = np.full(len(images), "", dtype=object)
    labels = images["label"].to_numpy()
    for number, variety in enumerate(manifests.class_names(images)):
        rows = np.flatnonzero(labels == variety)
        groups = images["group"].to_numpy()[rows]
        if len(np.unique(groups)) == 1:
            groups = images["duplicate"].to_numpy()[rows]
        names, sizes = np.unique(groups, return_counts=True)
        order = np.random.default_rng([seed, number]).permutation(len(names))
        room, taken = round(fraction * len(rows)), list[int]()
        for group in order:
            if sizes[group] <= room and len(taken) < len(names) - spare:
                taken.append(group)
                room -= sizes[group]
        taken = taken or [order[np.argmin(sizes[order])]]
        drawn[rows[np.isin(groups, names[taken])]] = part
    return drawn
