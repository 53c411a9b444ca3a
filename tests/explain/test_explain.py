"""Relevance maps: the two forms of a model agree, they name what the answer needs, and `--explain` draws them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from support.data import real_images
from support.models import grains, write_grains

from rice_lib.backends.open import open_predictor
from rice_lib.backends.vit import dim_unattended, load_pixel_classifier
from rice_lib.cli.explain import run
from rice_lib.common.classes import VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import ArchitectureParams, FinetuneParams
from rice_lib.contract.decode import decode
from rice_lib.explain.backward import OpenedGraph, erf
from rice_lib.explain.deletion import black_out, deletion_test, first_patches, grain_area
from rice_lib.explain.explainers import Explanation, class_token_relevance, open_explainer
from rice_lib.explain.picture import COLOURS, overlay
from rice_lib.export.onnx import export
from rice_lib.models.vit import create_model

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "rice-vit-tiny.onnx"
KEEP = 40


def deep_checkpoint(folder: Path, keep: int | None) -> Path:
    """Three layers: a map is carried through an ordinary layer, and through one whose keys are another's outputs."""
    torch.manual_seed(83)
    shape = ArchitectureParams(hidden_size=32, layers=3, heads=2)
    model = create_model(FinetuneParams(model="scratch", architecture=shape, foreground_patches=keep), VARIETIES)
    with torch.no_grad():  # the small weights of the start would give attention that is the same everywhere
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(folder / f"vit-{keep}")
    return folder / f"vit-{keep}"


def exported(checkpoint: Path, opset: int = 20) -> Path:
    return export(load_pixel_classifier(checkpoint), checkpoint.parent / "m.onnx", labels=VARIETIES, opset=opset)


@pytest.fixture(scope="module")
def foreground(tmp_path_factory):
    """A checkpoint and its export."""
    made = deep_checkpoint(tmp_path_factory.mktemp("foreground"), KEEP)
    return made, exported(made)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """The same of a dense model, exported as before opset 20, when GELU was written out."""
    made = deep_checkpoint(tmp_path_factory.mktemp("dense"), None)
    return made, exported(made, opset=18)


@pytest.fixture(params=["foreground", "dense"])
def both(request):
    """A checkpoint and its export, of either form."""
    return request.getfixturevalue(request.param)


def options(inputs, folder, model=None, **changes) -> Namespace:
    values = {"threads": 1, "null": False, "reject": True, "output": None, "format": None}
    return Namespace(
        inputs=[str(i) for i in inputs], explain=folder, model=model and str(model), **{**values, **changes}
    )


def test_onnx_and_torch_draw_the_same_map(both):
    checkpoint, file = both
    from_file, from_torch = open_explainer(file, 1), open_explainer(checkpoint, 1)
    for count in (1, 3, 6):  # 6: more than are looked into at once
        pixels = grains(count, seed=count)
        one, other = from_file.explain(pixels), from_torch.explain(pixels)
        assert one.relevance.shape == (count, 14, 14)
        np.testing.assert_allclose(one.relevance, other.relevance, atol=1e-4)
        np.testing.assert_array_equal(one.seen, other.seen)
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
        assert one.relevance.max() > 0.01  # the maps are no rows of zeros


@pytest.mark.slow
def test_half_precision_draws_nearly_the_same_map(foreground, tmp_path):
    made, _ = foreground
    file = export(load_pixel_classifier(made), tmp_path / "h.onnx", precision="float16", labels=VARIETIES)
    pixels = grains(2)
    one, other = open_explainer(file, 1).explain(pixels), open_explainer(made, 1).explain(pixels)
    np.testing.assert_allclose(one.relevance, other.relevance, atol=5e-3)


def test_the_class_asked_for_is_the_class_explained(foreground):
    made, file = foreground
    pixels, classes = grains(2), np.array([4, 0])
    explainers = open_explainer(file, 1), open_explainer(made, 1)
    one, other = (explainer.explain(pixels, classes).relevance for explainer in explainers)
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.abs(one - explainers[0].explain(pixels, 4 - classes).relevance).max() > 1e-3


def test_a_map_is_shares_of_what_was_seen(both):
    pixels = grains(3)
    explanation = open_explainer(both[0], 1).explain(pixels)
    np.testing.assert_allclose(explanation.relevance.sum((1, 2)), 1, atol=1e-5)
    assert (explanation.relevance >= 0).all()
    assert (explanation.relevance[~explanation.seen] == 0).all()


def test_what_was_seen_are_the_brightest_patches(foreground):
    _, file = foreground
    pixels = grains(3)
    seen = open_explainer(file, 1).explain(pixels).seen
    greyed = (dim_unattended(pixels, KEEP, 16) != pixels).any(-1).reshape(3, 14, 16, 14, 16).any((2, 4))
    np.testing.assert_array_equal(seen, ~greyed)


def test_every_layer_and_the_last_ones_single_row_are_found(foreground):
    _, file = foreground
    inside = OpenedGraph(file, 1).run(grains(2))
    assert [a.shape for a in inside.attention] == [(2, 2, 41, 41), (2, 2, 41, 41), (2, 2, 1, 41)]
    for attention in inside.attention:
        np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)


def test_class_token_relevance_by_hand():
    """Two layers, two tokens beside the class token, one head: R = (I + B)(I + A), its first row."""
    a = np.array([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3], [0.4, 0.4, 0.2]], np.float32)
    b = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], np.float32)
    gradient = np.array([[1, -1, 2], [1, 1, 1], [0, 1, -3]], np.float32)
    whole = (np.eye(3) + np.maximum(b * gradient, 0)) @ (np.eye(3) + np.maximum(a * gradient, 0))
    layers, slopes = [a[None, None], b[None, None]], [gradient[None, None]] * 2
    np.testing.assert_allclose(class_token_relevance(layers, slopes)[0], whole[0, 1:], rtol=1e-6)
    # the class token's row of the last layer is enough
    layers[1], slopes[1] = layers[1][:, :, :1], slopes[1][:, :, :1]
    np.testing.assert_allclose(class_token_relevance(layers, slopes)[0], whole[0, 1:], rtol=1e-6)


def test_erf_is_the_error_function():
    x = np.linspace(-4, 4, 801)
    np.testing.assert_allclose(erf(x), torch.erf(torch.from_numpy(x)).numpy(), atol=2e-7)


def test_first_patches_spend_the_budget():
    order = np.array([[5.0, 4, 3, 2, 1], [1.0, 2, 3, 4, 5]])
    ones = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    assert first_patches(order, ones, 0.5).tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]]
    area = np.array([[70, 10, 10, 10, 0], [10, 10, 10, 70, 0]])
    assert first_patches(order, area, 0.7).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert not first_patches(order, np.zeros((2, 5)), 0.5).any()


def test_the_deletion_test_knows_a_good_map_from_a_bad_one():
    """A model that reads one patch: a map that names it, and one that names every other."""
    pixels = grains(4)
    area = grain_area(pixels, 14)
    key = area.argmax(1)

    def logits(images: np.ndarray) -> np.ndarray:
        there = np.take_along_axis(grain_area(images, 14), key[:, None], 1)[:, 0] > 0
        return np.where(there[:, None], [0, 9, 0, 0, 0], [9, 0, 0, 0, 0]).astype(np.float32)

    good = np.zeros((4, 196), np.float32)
    np.put_along_axis(good, key[:, None], 1.0, 1)
    seen = np.ones((4, 14, 14), bool)
    found = [
        deletion_test(logits, pixels, Explanation(logits(pixels), m.reshape(4, 14, 14), seen), [0.1], draws=20)[0]
        for m in (good, -good)
    ]
    assert found[0].relevant > 0.99
    assert found[0].relevant_changed == 1
    assert found[1].relevant == 0
    assert 0 < found[0].random_changed < 0.4  # a tenth of the patches, twenty draws of four images


def test_black_out_blacks_those_patches_alone():
    pixels = np.full((1, 224, 224, 3), 9, np.uint8)
    patches = np.zeros((1, 196), bool)
    patches[0, 15] = True
    black = black_out(pixels, patches)
    assert not black[0, 16:32, 16:32].any()
    assert black.astype(int).sum() == pixels.astype(int).sum() - 9 * 3 * 256


def test_the_colours_are_magma():
    magma = mpl.colormaps["magma"](np.arange(256))[:, :3] * 255
    assert np.abs(COLOURS - magma).max() < 3.5


def test_an_overlay_shows_the_most_relevant_patch_brightest_and_greys_the_unseen():
    relevance, seen = np.zeros((14, 14)), np.ones((14, 14), bool)
    relevance[3, 5], relevance[3, 6], seen[0] = 0.2, 0.1, False
    picture = overlay(np.zeros((224, 224, 3), np.uint8), relevance, seen).astype(int)
    patches = picture.reshape(14, 32, 14, 32, 3).mean((1, 3, 4))
    assert picture.shape == (448, 448, 3)
    assert patches[1:].argmax() == 2 * 14 + 5
    assert patches[3, 5] > patches[3, 6] > patches[3, 7]
    assert set(picture[:32].ravel()) == {58}


def test_explain_writes_a_picture_each_and_says_so(foreground, tmp_path, capsys):
    files = write_grains(tmp_path / "in", 5)
    other = write_grains(tmp_path / "other", 1)
    assert run(options([*files, *other], tmp_path / "a" / "why", foreground[1])) == 0
    names = [f"grain ({n}).why.png" for n in range(5)] + ["grain (0)-2.why.png"]
    assert sorted(os.listdir(tmp_path / "a" / "why")) == sorted(names)
    told, noted = capsys.readouterr()
    assert [line.split("  ")[-1] for line in told.splitlines()] == [str(tmp_path / "a/why" / name) for name in names]
    assert all(line.split()[0] in VARIETIES for line in told.splitlines())
    assert noted.count("\n") == 1  # that the model refuses nothing
    with Image.open(tmp_path / "a" / "why" / names[0]) as picture:
        assert picture.width == 468


def test_explain_tells_bad_inputs_and_goes_on(foreground, tmp_path, capsys):
    (good,) = write_grains(tmp_path, 1)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    assert run(options([bad, tmp_path / "none.jpg", good], tmp_path / "why", foreground[1], reject=False)) == 1
    told, noted = capsys.readouterr()
    assert len(told.splitlines()) == len(list((tmp_path / "why").iterdir())) == 1
    assert str(bad) in noted.splitlines()[0]
    assert "none.jpg: no such file" in noted.splitlines()[1]


def test_explain_does_not_explain_its_own_pictures(foreground, tmp_path):
    folder = tmp_path / "photos"
    write_grains(folder, 2)
    for _ in range(2):
        assert run(options([folder], folder, foreground[1])) == 0
    assert len(list(folder.iterdir())) == 4


def test_a_long_name_is_cut(foreground, tmp_path):
    (file,) = write_grains(tmp_path, 1)
    long = file.rename(tmp_path / ("é" * 120 + ".png"))
    assert run(options([long], tmp_path / "why", foreground[1])) == 0
    assert len(os.listdir(tmp_path / "why")) == 1


def test_a_refused_image_is_drawn_with_its_reason(tmp_path, capsys):
    Image.new("RGB", (224, 224), (90, 120, 60)).save(tmp_path / "green.png")
    assert run(options([tmp_path / "green.png"], tmp_path / "why", SHIPPED)) == 0
    told, _ = capsys.readouterr()
    assert told.startswith("unknown")
    assert "not a single grain" in told


@pytest.mark.parametrize("model", ["x.plan", "y.engine", "triton://localhost:8000/rice"])
def test_what_cannot_be_seen_into_is_said(model, tmp_path):
    with pytest.raises(RiceError, match=r"inside cannot be seen; give the \.onnx or the checkpoint"):
        run(options(["a.jpg"], tmp_path / "why", model))
    assert not (tmp_path / "why").exists()


def test_output_options_are_refused(tmp_path):
    with pytest.raises(RiceError, match="leave --output and --format out"):
        run(options(["a.jpg"], tmp_path, output=tmp_path / "x.csv"))


def test_a_folder_that_cannot_be_made_is_said(foreground, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RiceError, match="the folder cannot be made"):
        run(options(["a.jpg"], tmp_path / "file", foreground[1]))


def test_missing_onnx_is_one_line(foreground, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RiceError, match=r"pip install 'rice-lib\[explain\]'"):
        run(options(["a.jpg"], tmp_path / "why", foreground[1]))


def test_a_graph_without_attention_is_said(foreground, tmp_path):
    proto = onnx.load(foreground[1])
    for node in proto.graph.node:
        if node.op_type == "Softmax":
            node.op_type = "LogSoftmax"
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(RiceError, match="no attention that can be read"):
        open_explainer(tmp_path / "other.onnx")


def test_explaining_an_onnx_file_imports_no_torch(foreground, tmp_path):
    (file,) = write_grains(tmp_path, 1)
    code = (
        "import sys; from rice_lib.infer import main; "
        "status = main(sys.argv[1:]); "
        "print([m for m in ('torch', 'matplotlib', 'scipy', 'cv2') if m in sys.modules], status)"
    )
    command = [sys.executable, "-c", code, str(file), "--model", str(foreground[1]), "--explain", str(tmp_path / "why")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def rollout(graph: OpenedGraph, pixels: np.ndarray, explained: Explanation) -> Explanation:
    """The same images by attention rollout (Abnar & Zuidema 2020), which ours is compared with."""
    laid = np.zeros((len(pixels), graph.patches), np.float32)
    for start in range(0, len(pixels), 10):
        inside = graph.run(pixels[start : start + 10])
        row = np.zeros((len(inside.logits), 1, inside.attention[0].shape[-1]), np.float32)
        row[:, :, 0] = 1
        for weights in reversed(inside.attention):
            row = (row + row[:, :, : weights.shape[2]] @ weights.mean(1)) / 2
        np.put_along_axis(laid[start : start + 10], inside.chosen, row[:, 0, 1:], 1)
    return replace(explained, relevance=laid.reshape(explained.relevance.shape))


def real_pixels(count: int) -> np.ndarray:
    """Real images, evenly from what RICE_DATA names, so of every variety: uint8 `[count, 224, 224, 3]`."""
    source = real_images()
    if source.is_dir():
        files = sorted(source.rglob("*.jpg"))
        return np.stack([decode(file) for file in files[:: len(files) // count][:count]])
    with zipfile.ZipFile(source) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        return np.stack([decode(archive.read(name)) for name in names[:: len(names) // count][:count]])


@pytest.mark.real
@pytest.mark.slow
def test_real_maps_name_what_the_shipped_model_needs(capsys):
    """Against chance, at equal numbers of patches and at equal areas of grain, and against rollout; prints the falls.

    Measured on 200 test images, at 20 %: 0.187 against 0.089 by chance (patches), 0.146 against 0.085 (area).
    """
    pixels = real_pixels(100)
    explained = open_explainer(SHIPPED, 1).explain(pixels)
    rolled = rollout(OpenedGraph(SHIPPED, 1), pixels, explained)
    with open_predictor(SHIPPED, 1) as predictor:
        (patches,) = deletion_test(predictor.logits, pixels, explained, [0.2])
        (area,) = deletion_test(predictor.logits, pixels, explained, [0.2], budget="area")
        (other,) = deletion_test(predictor.logits, pixels, rolled, [0.2], draws=1)
    with capsys.disabled():
        print(f"\nfall at 20 %: {patches}, by area: {area}, rollout: {other.relevant:.3f}")
    assert patches.relevant > 1.4 * patches.random
    assert area.relevant > 1.1 * area.random
    assert patches.relevant > 2 * other.relevant
