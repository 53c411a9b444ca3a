"""The image contract: the same bits for ordinary images for ever, and what a person sees for all the others."""

import hashlib
import io
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from support.corpus import (
    Transpose,
    drawn,
    encoded,
    exif,
    foreign_files,
    ordinary,
    png_chunk,
)

from rice_lib.contract import decode as preprocess
from rice_lib.contract.decode import BadImageError, decode, decode_with_notes, open_image, to_square

FROZEN = {
    # name: sha256 of the file (to know another encoder), and of its pixels; first 16 digits, Pillow 13.0.0
    "jpeg.jpg": ("2a988de6b5487b12", "30bb91f8205508f4"),
    "best.jpg": ("5d0eaceb72cc0a54", "bb1092ecd5217a43"),
    "progressive.jpg": ("891edacb33a85fb1", "30bb91f8205508f4"),
    "grey.jpg": ("5737212ba02b46c2", "1d96a4a36b34ba4d"),
    "wide.jpg": ("82f48d35cd05ac20", "6ea7fb152a9444df"),
    "tall.jpg": ("9ab1885f58ba6610", "5d0e87a9bcdfe154"),
    "rgb.png": ("7e857d00c0de5c71", "1be7929226286739"),
    "grey.png": ("c07863cb696e3932", "e0d23cb597807af4"),
    "palette.png": ("db348af46cfdeaf3", "529a85a9fb6a39dc"),
    "exact.png": ("c26b815a6146a79c", "0240cc9a30448673"),
    "small.png": ("81bfa3af4d55966f", "5c397e059de12d92"),
    "strip.png": ("4b42301d116d75dd", "8a61498df754f997"),
    "narrow.png": ("49230b941bf5ee10", "e787ae5aec5d8c36"),
    "large.png": ("9224f31c6f4d4831", "dbda53a88da421e0"),
    "wide224.png": ("db4194709a0f4e5f", "04a39fe76c829a0a"),
}


def picture(data: bytes) -> np.ndarray:
    """The upright picture at its own size."""
    return np.asarray(open_image(data)).astype(int)


def reference(data: bytes) -> np.ndarray:
    """The contract in the plainest words: pad everything, then resize everything."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("name", FROZEN)
def test_ordinary_images_keep_their_bits(name):
    data = ordinary()[name]
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (224, 224, 3)
    np.testing.assert_array_equal(pixels, reference(data))
    file, frozen = FROZEN[name]
    if hashlib.sha256(data).hexdigest()[:16] != file:
        pytest.skip("this Pillow encodes otherwise: compared with the reference alone")
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == frozen


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from([None, 1, 97, 5000]))
def test_bands_of_rows_change_no_bit(width, height, band):
    image = Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))
    side = max(width, height)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    expected = np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR))
    with pytest.MonkeyPatch.context() as patch:
        if band is not None:
            patch.setattr(preprocess, "_BAND_PIXELS", band)
        np.testing.assert_array_equal(np.asarray(to_square(image)), expected)


@pytest.mark.parametrize("source", ["bytes", "str", "path"])
def test_bytes_and_paths_are_the_same(source, tmp_path):
    data = ordinary()["jpeg.jpg"]
    file = tmp_path / "a.jpg"
    file.write_bytes(data)
    given_ = {"bytes": data, "str": str(file), "path": file}[source]
    np.testing.assert_array_equal(decode(given_), decode(data))


COLOUR = Image.fromarray(drawn(64, 48))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_is_upright(orientation, form):
    # EXIF 2.32, 4.6.4: where the stored row 0 and column 0 belong; the inverse turns an upright picture into a stored
    stored = {
        1: COLOUR,
        2: COLOUR.transpose(Transpose.FLIP_LEFT_RIGHT),
        3: COLOUR.transpose(Transpose.ROTATE_180),
        4: COLOUR.transpose(Transpose.FLIP_TOP_BOTTOM),
        5: COLOUR.transpose(Transpose.TRANSPOSE),
        6: COLOUR.transpose(Transpose.ROTATE_90),
        7: COLOUR.transpose(Transpose.TRANSVERSE),
        8: COLOUR.transpose(Transpose.ROTATE_270),
    }[orientation]
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    data = encoded(stored, form, exif=tags, **options)
    assert np.abs(picture(data) - np.asarray(COLOUR).astype(int)).max() <= (12 if form == "JPEG" else 0)
    assert open_image(data).size == COLOUR.size


def test_a_damaged_exif_block_is_passed_over_with_a_note():
    data = encoded(COLOUR, "PNG", exif=exif(6))
    broken = data.replace(b"MM\0*", b"XX\0*")
    start = broken.index(b"eXIf")
    length = int.from_bytes(broken[start - 4 : start], "big")
    broken = (
        broken[: start - 4] + png_chunk(b"eXIf", broken[start + 4 : start + 4 + length]) + broken[start + 8 + length :]
    )
    pixels, notes = decode_with_notes(broken)
    np.testing.assert_array_equal(pixels, decode(encoded(COLOUR, "PNG")))
    assert notes == ("EXIF data ignored (damaged)",)


def test_progressive_is_the_same_picture():
    np.testing.assert_array_equal(decode(ordinary()["progressive.jpg"]), decode(ordinary()["jpeg.jpg"]))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_taken_with_a_note(form):
    first, others = (
        Image.new("RGB", (40, 40), (200, 10, 10)),
        [Image.new("RGB", (40, 40), (0, k, 200)) for k in (1, 99)],
    )
    options = {"lossless": True} if form == "WEBP" else {}
    pixels, notes = decode_with_notes(encoded(first, form, save_all=True, append_images=others, **options))
    assert np.abs(pixels[112, 112].astype(int) - [200, 10, 10]).max() <= 2
    # a GIF and a TIFF do not state how many they hold
    assert notes == (f"first of {'several' if form in ('GIF', 'TIFF') else 3} frames",)


def test_a_gifs_other_frames_are_not_read(monkeypatch):
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    gif = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * 30_000 + b";"
    monkeypatch.setattr(GifImageFile, "n_frames", property(lambda image: pytest.fail("all frames are counted")))
    assert decode_with_notes(gif)[1] == ("first of several frames",)
    damaged = gif[: gif.index(frame) + len(frame)] + frame[:8]
    assert decode_with_notes(damaged)[1] == (), "the first frame is all that is wanted"


def test_the_previews_in_a_telephones_jpeg_are_no_frames():
    data = encoded(COLOUR, "MPO", save_all=True, append_images=[COLOUR.resize((20, 20))])
    pixels, notes = decode_with_notes(data)
    assert notes == ()
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(pixels, reference(data))


def test_a_one_pixel_image_fills_the_frame():
    assert (decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")) == [1, 2, 3]).all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_where_its_library_is_installed(orientation):
    heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(drawn(250, 100))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    heif.from_pillow(image).save(file, quality=-1, exif=exif.tobytes())
    upright = image.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else image
    found = open_image(file.getvalue())
    assert found.size == upright.size
    assert np.abs(np.asarray(found, np.int16) - np.asarray(upright, np.int16)).mean() < 1
    for cut in (40, len(file.getvalue()) // 2):
        with pytest.raises(BadImageError):
            decode(file.getvalue()[:cut])


def test_a_strip_is_a_line_in_the_middle():
    pixels = decode(encoded(Image.new("L", (2240, 100), 255), "PNG"))
    assert pixels[:106].max() == 0
    assert pixels[118:].max() == 0
    assert pixels[108:116].min() == 255


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(preprocess, "LARGE_PIXELS", 10_000)
    inside, most = 0, 0
    lock = threading.Lock()

    def watched(image):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.05)
        with lock:
            inside -= 1
        return to_square(image)

    monkeypatch.setattr(preprocess, "to_square", watched)

    def together(data):
        nonlocal most
        most = 0
        threads = [threading.Thread(target=decode, args=(data,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        return most

    assert together(encoded(Image.fromarray(drawn(250, 250)), "JPEG")) == 1
    assert together(encoded(Image.fromarray(drawn(50, 50)), "JPEG")) > 1


def test_the_lock_is_given_back_when_a_large_image_is_bad(monkeypatch):
    monkeypatch.setattr(preprocess, "LARGE_PIXELS", 10)
    with pytest.raises(BadImageError):
        decode(foreign_files()["truncated.jpg"][0])
    taken = []
    thread = threading.Thread(target=lambda: taken.append(preprocess._large.acquire(timeout=1)))
    thread.start()
    thread.join()
    assert taken == [True]
    preprocess._large = threading.RLock()


def test_a_jpeg_imports_one_of_pillows_plugins(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(ordinary()["jpeg.jpg"])
    code = (
        "import sys; from rice_lib.contract.decode import decode; decode(sys.argv[1]); "
        "print(*sorted(m for m in sys.modules if m.startswith('PIL.') and m.endswith('Plugin')), "
        "*(m for m in ('PIL.ImageCms', 'PIL.ImageOps', 'rice_lib.contract.colour') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PIL.JpegImagePlugin"]
