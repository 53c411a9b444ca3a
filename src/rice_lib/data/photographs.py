"""Cut photographs of many grains into images of single grains: `rice grains`, and the source `photographs`.

`FOLDER/<class>/[<session>/]photo.jpg` becomes `<class>/[<session>/]photo-001.png` and so on: one grain alone on black,
exactly as `rice infer --grains` shows it to a model, with `photo.jpg.annotated.png` beside them. Every frame has the
same scale: `FRAME_MM` where the photographs' scales are known, else one for the whole set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from rice_lib.common.colours import COLOURS
from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json, write_csv, write_json
from rice_lib.contract.decision import ImageScale
from rice_lib.contract.decode import ANNOTATED, BadImageError, open_image
from rice_lib.data.decoding import over_images
from rice_lib.data.listing import image_paths, is_image_name
from rice_lib.tray.find import Grain, find
from rice_lib.tray.frame import SIDE, cut_out, gains
from rice_lib.tray.picture import outlined
from rice_lib.tray.scale import set_reference_aside
from rice_lib.tray.sheet import core

FRAME_MM = 0.04
"""Millimetres to a pixel of a frame: between the two scales of the public set (`tray.scale`), so that a model trained
on it sees grains of familiar size; a frame is 10 mm wide, and the longest milled grains reach 8.5 mm."""

FILL = 0.8  # share of the frame that all but the longest hundredth of the grains fill, where no scale is known
LIKE_THE_OTHERS = (0.4, 2.5)
"""Areas, in units of the photograph's median, of what is cut: less is a crumb, more a card, a coin or a heap."""
MIN_TO_COMPARE = 5  # fewer objects on a photograph do not say what its grains are like: all are cut
VERSION = 1  # raised whenever the same photographs would give other frames: those of another version are cut again

GRAINS, ABOUT = "grains.csv", "grains.json"
COLUMNS = (
    *("path", "photograph", "grain", "x", "y", "length_px", "width_px", "area_px"),
    *("length_mm", "width_mm", "area_mm2", "red", "green", "blue"),
)
"""path: the frame, relative to this file; photograph: below the photographs' folder; grain: its number in the annotated
picture; x, y: its centre in the photograph, pixels; length, width: axes of the ellipse of the same second moments; mm
where the scale is known; red, green, blue: means inside the grain as photographed, 0-255."""


@dataclass(frozen=True)
class Cutting:
    """What is on one photograph; `grains.json` has the numbers of `grains` and `left_out` in their place."""

    photograph: str  # POSIX path `<class>/[<session>/]name.jpg`
    grains: Sequence[Grain] = ()
    left_out: Sequence[np.ndarray] = ()  # outlines: cut by the border, unlike the other objects, the reference object
    mm_per_pixel: float | None = None
    notes: tuple[str, ...] = ()  # what was left out, and warnings
    error: str | None = None  # why nothing is cut from it


def collect(path: Path) -> dict[str, Path]:
    """List the photographs of a folder, or the one that `path` names, by their places below the folder (POSIX).

    Raises `RiceError` where there is none.
    """
    folder, names = (path, sorted(image_paths(path))) if path.is_dir() else (path.parent, [path.name] * path.is_file())
    if not any(map(is_image_name, names)):
        raise RiceError(f"{path}: no photograph, or no folder with photographs in it")
    return {name: folder / name for name in names}


def cut(
    photographs: Mapping[str, Path],
    output: Path,
    *,
    mm_per_pixel: float | None = None,
    reference_mm: float | None = None,
    unusable: Sequence[Cutting] = (),
    workers: int | None = None,
) -> list[Cutting]:
    """Cut the photographs of `collect` into frames in the folder `output`, with `grains.csv` and `grains.json`.

    The scale of every photograph is `mm_per_pixel`, or read off a round object of diameter `reference_mm` in each;
    `unusable` ones are listed as those of which nothing is cut. Uses `workers` processes, of None all cores; shows
    progress. Raises `RiceError` where there is no grain on any of them, or the output cannot be written.
    """
    look = partial(_look, mm_per_pixel=mm_per_pixel, reference_mm=reference_mm)
    over = partial(over_images, workers=workers, unit="photograph", chunk=1, pool_from=8)
    cuttings = over(look, list(photographs.items()), title="find grains")
    lengths = [grain.length for cutting in cuttings for grain in cutting.grains]
    if not lengths:
        raise RiceError(f"no grains on {len(cuttings)} photographs; the first: {cuttings[0].error}")
    scale = ImageScale("mm", FRAME_MM)
    if mm_per_pixel is None and reference_mm is None:
        scale = ImageScale("px", float(f"{np.quantile(lengths, 0.99) / (FILL * SIDE):.4g}"))
    work = list(zip(photographs.values(), cuttings, _names(list(photographs)), strict=True))
    rows = over(partial(_write, output=output, scale=scale), work, title="cut grains")
    write_csv(output / GRAINS, COLUMNS, (row for of_photograph in rows for row in of_photograph))
    about = [vars(own) | {"grains": len(own.grains), "left_out": len(own.left_out)} for own in (*cuttings, *unusable)]
    write_json(output / ABOUT, {"scale": asdict(scale), "photographs": about})
    return cuttings


def read_about(folder: Path) -> dict[str, Any]:
    """Read `grains.json`: the frames' `scale`, and of each of the `photographs` what `Cutting` holds, but outlines.

    Empty for a folder that `cut` did not write.
    """
    return dict(read_json(folder / ABOUT)) if (folder / ABOUT).is_file() else {}


def photograph_of(folder: Path) -> dict[str, str]:
    """Read which photograph each frame of a folder was cut from; empty for a folder that `cut` did not write."""
    if not read_about(folder):
        return {}
    table = pd.read_csv(folder / GRAINS, dtype=str, keep_default_na=False)
    return dict(zip(table["path"], table["photograph"], strict=True))


def _look(photograph: tuple[str, Path], mm_per_pixel: float | None, reference_mm: float | None) -> Cutting:
    """Find the grains of one photograph and its scale."""
    place, file = photograph
    try:
        found = find(np.asarray(open_image(file)))
        grains, left_out = found.grains, list(found.cut)
        notes = [f"{len(found.cut)} cut by the border"] * bool(found.cut)
        if reference_mm is not None:
            grains, reference, mm_per_pixel = set_reference_aside(grains, reference_mm)
            left_out.append(reference.outline)
        if len(grains) >= MIN_TO_COMPARE:
            low, high = np.array(LIKE_THE_OTHERS) * float(np.median([grain.area for grain in grains]))
            odd = [grain.outline for grain in grains if not low <= grain.area <= high]
            grains = [grain for grain in grains if low <= grain.area <= high]
            left_out += odd
            notes += [f"{len(odd)} much smaller or larger than the other objects"] * bool(odd)
    except BadImageError as error:
        return Cutting(place, error=str(error))
    notes += ["the background is uneven"] * (not found.background.plain)
    return Cutting(place, grains, left_out, mm_per_pixel, tuple(notes))


def _write(work: tuple[Path, Cutting, str], output: Path, scale: ImageScale) -> list[tuple[object, ...]]:
    """Write the frames and the annotated picture of one photograph; returns its rows of `grains.csv`."""
    file, cutting, name = work
    if cutting.error is not None:
        return []
    image, mm, rows = np.asarray(open_image(file)), cutting.mm_per_pixel, []
    factor = (mm or 1.0) / scale.per_pixel
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    lit = zip(cutting.grains, gains(image, cutting.grains), strict=True)
    for number, (grain, gain) in enumerate(lit, start=1):
        path = f"{name}-{number:03}.png"
        Image.fromarray(cut_out(image, grain, factor, gain)).save(output / path)
        sizes = [round(grain.length, 2), round(grain.width, 2), round(grain.area)]
        in_mm = [round(size * mm**power, 4) for size, power in zip(sizes, (1, 1, 2), strict=True)] if mm else [""] * 3
        colour = [round(level, 1) for level in core(image, grain).mean(axis=0).tolist()]
        centre = [round(place, 1) for place in grain.centre]
        rows.append((path, cutting.photograph, number, *centre, *sizes, *in_mm, *colour))
    picture = outlined(image, cutting.grains, [COLOURS[0]] * len(cutting.grains), cutting.left_out, max_side=1600)
    picture.save(output / (cutting.photograph + ANNOTATED))
    return rows


def _names(places: Sequence[str]) -> list[str]:
    """Name frames after their photograph, with its suffix where two photographs differ in nothing else."""
    stems = [str(PurePosixPath(place).with_suffix("")) for place in places]
    return [stem if stems.count(stem) == 1 else place for stem, place in zip(stems, places, strict=True)]
