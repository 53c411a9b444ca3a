"""The image contract: the same bits for ordinary images for ever, and what a person sees for all the others."""

import hashlib
import io
import os
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from support.corpus import (
    ADOBE_RGB,
    Transpose,
    cmyk_profile,
    drawn,
    encoded,
    exif,
    foreign_files,
    grey_profile,
    ordinary,
    png,
    png_chunk,
    rgb_profile,
    sample_images,
    srgb_profile,
    tiff,
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


def test_transparency_is_laid_on_black():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., :3] = 200, 100, 50
    rgba[..., 3] = [0, 64, 128, 255]
    expected = np.round(rgba[..., :3] * (rgba[..., 3:] / 255.0))
    for form in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        assert np.abs(picture(encoded(Image.fromarray(rgba), form, **options)) - expected).max() <= 1, form
    grey = Image.fromarray(rgba).convert("LA")
    assert np.abs(picture(encoded(grey, "PNG"))[0, :, 0] - np.array([0, 31, 62, 124])).max() <= 1


def test_a_transparent_palette_entry_is_black():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    for form in ("PNG", "GIF"):
        assert picture(encoded(image, form, transparency=1)).tolist() == [[[255, 0, 0], [0, 0, 0], [0, 0, 255]]]
    partly = encoded(image, "PNG", transparency=bytes([255, 128, 0]))
    assert picture(partly).tolist() == [[[255, 0, 0], [0, 128, 0], [0, 0, 0]]]


def test_a_transparent_colour_of_a_png_is_black():
    image = Image.new("RGB", (2, 1), (9, 200, 7))
    image.putpixel((1, 0), (200, 9, 7))
    assert picture(encoded(image, "PNG", transparency=(9, 200, 7))).tolist() == [[[0, 0, 0], [200, 9, 7]]]


def test_one_bit_images_are_black_and_white():
    image = Image.new("1", (3, 1))
    image.putdata([0, 1, 0])
    for form in ("PNG", "TIFF", "BMP", "PPM"):
        assert picture(encoded(image, form))[0, :, 0].tolist() == [0, 255, 0], form


DEEP = np.array([[0, 255, 256, 257, 32_768, 65_278, 65_535]], np.uint16)
SHALLOW = [0, 1, 1, 1, 128, 254, 255]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    big_endian = DEEP.astype(">u2").tobytes()
    width = DEEP.shape[1]
    files = {
        "png": png(width, 1, 16, 0, b"\0" + big_endian),
        "tif": tiff(width, 1, 16, DEEP.astype("<u2").tobytes()),
        "pgm": b"P5 %d 1 65535\n" % width + big_endian,
        "jp2": encoded(Image.fromarray(np.repeat(DEEP, 8, 0)), "JPEG2000", irreversible=False),
    }
    for name, data in files.items():
        pixels, notes = picture(data), decode_with_notes(data)[1]
        assert np.abs(pixels[0, :, 0] - SHALLOW).max() <= (1 if name == "jp2" else 0), name
        assert notes == ()


def test_grey_with_white_as_zero_and_twelve_bits():
    inverted = tiff(DEEP.shape[1], 1, 16, DEEP.astype("<u2").tobytes(), white_is_zero=True)
    assert picture(inverted)[0, :, 0].tolist() == [255 - v for v in SHALLOW]
    twelve = tiff(4, 1, 12, bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x00]))  # 0, 4095, 2048, 2048
    assert picture(twelve)[0, :, 0].tolist() == [0, 255, 128, 128]


def test_sixteen_bit_colour_keeps_its_upper_byte():
    colours = np.array([[[65_535, 32_768, 256], [0, 4_096, 51_400]]], np.uint16)
    data = png(2, 1, 16, 2, b"\0" + colours.astype(">u2").tobytes())
    assert np.abs(picture(data) - colours / 257).max() <= 1
    clear = np.concatenate([colours, np.array([[[65_535], [0]]], np.uint16)], axis=2)
    data = png(2, 1, 16, 6, b"\0" + clear.astype(">u2").tobytes())
    assert np.abs(picture(data) - [[[255, 128, 1], [0, 0, 0]]]).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (np.array([0.0, 0.52, 1.0, 1.1, -3], np.float32), [0, 133, 255, 255, 0], "pixels read as 0 to 1"),
        (np.array([0.0, 127.6, 255.0, np.nan, np.inf], np.float32), [0, 128, 255, 0, 255], "pixels read as 0 to 255"),
        (np.array([0.0, 32768, 65535, 257], np.float32), [0, 128, 255, 1], "pixels read as 0 to 65,535"),
        (np.array([0, 20, 200, 255], np.int32), [0, 20, 200, 255], "pixels read as 0 to 255"),
        (np.array([0, 300, 65535, 257], np.int32), [0, 1, 255, 1], "pixels read as 0 to 65,535"),
        (np.array([0, 10**6, 5 * 10**5], np.int32), [0, 255, 128], "pixels read as 0 to 1,000,000"),
    ],
)
def test_pixels_without_a_white_are_read_by_the_brightest(values, expected, note):
    data = encoded(Image.fromarray(values[None]), "TIFF")
    assert picture(data)[0, :, 0].tolist() == expected
    assert decode_with_notes(data)[1] == (note,)


def test_cmyk_of_adobe_is_not_inverted():
    inks = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    inks.paste((255, 0, 0, 0), (0, 0, 8, 16))  # cyan
    for data in (encoded(inks, "JPEG", quality=98, subsampling=0), encoded(inks, "TIFF")):
        pixels = picture(data)
        assert np.abs(pixels[8, 2] - [0, 255, 255]).max() <= 6
        assert np.abs(pixels[8, 13] - [255, 255, 255]).max() <= 6


def test_ycck_is_cmyk():
    # libjpeg writes four channels as they are; Adobe's marker (byte 11) then says YCCK, so that the second and third
    # become chroma, here neutral
    inks = Image.new("CMYK", (16, 16), (255, 127, 127, 0))
    data = encoded(inks, "JPEG", quality=100, subsampling=0)
    marker = data.index(b"Adobe")
    ycck = data[: marker + 11] + b"\2" + data[marker + 12 :]
    assert np.ptp(picture(ycck)[8, 8]) <= 6, "neutral chroma is grey"
    assert np.ptp(picture(data)[8, 8]) > 100


def test_progressive_is_the_same_picture():
    np.testing.assert_array_equal(decode(ordinary()["progressive.jpg"]), decode(ordinary()["jpeg.jpg"]))


def test_lab_is_colour():
    red = Image.new("LAB", (4, 4), (138, 128 + 81, 128 + 70))  # L* 54, a* 81, b* 70 (D50): sRGB's red
    assert np.abs(picture(encoded(red, "TIFF"))[0, 0] - [255, 0, 0]).max() <= 10


def to_srgb(linear_xyz: np.ndarray) -> np.ndarray:
    """XYZ (D50) to 8-bit sRGB (IEC 61966-2-1, Bradford-adapted)."""
    matrix = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    linear = np.clip(linear_xyz @ matrix.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


PATCHES = np.array(
    [[(200, 100, 50), (60, 160, 90), (128, 128, 128), (30, 40, 120), (255, 255, 255), (0, 0, 0)]], np.uint8
)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_a_colour_profile_is_applied(form):
    profile = rgb_profile(ADOBE_RGB, 2.2)
    expected = to_srgb((PATCHES / 255.0) ** (563 / 256) @ ADOBE_RGB.T)
    image = Image.fromarray(PATCHES.repeat(16, 0).repeat(16, 1))
    options = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    data = encoded(image, form, icc_profile=profile, **options)
    got = picture(data)[8, 8::16]
    assert np.abs(got - expected[0]).max() <= (5 if form == "JPEG" else 2)
    assert np.abs(PATCHES[0] - expected[0]).max() > 15, "a profile that changes nothing would prove nothing"
    assert decode_with_notes(data)[1] == ()


def test_a_profile_keeps_transparency_palette_and_grey():
    profile = rgb_profile(ADOBE_RGB, 2.2)
    plain = picture(encoded(Image.fromarray(PATCHES), "PNG", icc_profile=profile))
    clear = Image.fromarray(PATCHES).convert("RGBA")
    clear.putpixel((1, 0), (60, 160, 90, 0))
    got = picture(encoded(clear, "PNG", icc_profile=profile))
    assert got[0, 1].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(np.delete(got, 1, 1), np.delete(plain, 1, 1))
    palette = Image.fromarray(PATCHES).quantize(6)
    np.testing.assert_array_equal(picture(encoded(palette, "PNG", icc_profile=profile)), plain)


def test_an_srgb_profile_changes_no_bit():
    image = Image.fromarray(drawn(250, 250))
    with_profile = encoded(image, "JPEG", icc_profile=srgb_profile())
    np.testing.assert_array_equal(decode(with_profile), decode(encoded(image, "JPEG")))
    grey = image.convert("L")
    np.testing.assert_array_equal(
        decode(encoded(grey, "PNG", icc_profile=srgb_profile())), decode(encoded(grey, "PNG"))
    )


def test_a_grey_profile_is_applied():
    ramp = Image.fromarray(np.array([[0, 50, 128, 200, 255]], np.uint8))
    pixels = picture(encoded(ramp, "PNG", icc_profile=grey_profile(1.0)))
    white = np.array([0.9642, 1.0, 0.8249])
    expected = to_srgb(np.array([0, 50, 128, 200, 255])[:, None] / 255.0 * white)
    assert np.abs(pixels[0] - expected).max() <= 2
    deep = png(
        5,
        1,
        16,
        0,
        b"\0" + (np.asarray(ramp).astype(">u2") * 257).tobytes(),
        png_chunk(b"iCCP", b"g\0\0" + zlib.compress(grey_profile(1.0))),
    )
    assert np.abs(picture(deep)[0] - expected).max() <= 2


def test_a_press_profile_is_applied():
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for data in (encoded(inks, "TIFF", icc_profile=cmyk_profile()), encoded(inks, "JPEG", icc_profile=cmyk_profile())):
        red, green, blue = picture(data)[8, 8]
        assert red > 220 > green > 130 > blue, "the profile calls cyan orange"


@pytest.mark.parametrize(
    ("profile", "note"),
    [
        (b"no profile at all" * 20, "colour profile ignored (damaged)"),
        (srgb_profile()[:200], "colour profile ignored (damaged)"),
        (cmyk_profile(), "colour profile ignored (made for another kind of image)"),
        (grey_profile(1.0), "colour profile ignored (made for another kind of image)"),
        (bytes(9 * 2**20), "colour profile ignored (damaged)"),
    ],
)
def test_a_profile_that_cannot_be_used_is_passed_over_with_a_note(profile, note):
    image = Image.fromarray(drawn(250, 250))
    pixels, notes = decode_with_notes(encoded(image, "TIFF", icc_profile=profile))
    np.testing.assert_array_equal(pixels, decode(encoded(image, "TIFF")))
    assert notes == (note,)


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


def test_heic_names_its_library_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImageError, match=r"^HEIC needs pillow-heif, not installed here: .*'rice-lib\[heic\]'$"):
        decode(foreign_files()["photo.heic"][0])


def test_a_strip_is_a_line_in_the_middle():
    pixels = decode(encoded(Image.new("L", (2240, 100), 255), "PNG"))
    assert pixels[:106].max() == 0
    assert pixels[118:].max() == 0
    assert pixels[108:116].min() == 255


@pytest.mark.parametrize("name", foreign_files())
def test_what_is_no_image_gets_a_reason_of_one_line(name):
    data, reason = foreign_files()[name]
    with pytest.raises(BadImageError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sample_images())
def test_a_file_cut_anywhere_is_an_error_or_complete(name):
    data = sample_images()[name]
    reasons: list[str] = []
    for end in range(0, len(data), max(1, len(data) // 40)):
        try:
            decode(data[:end])
        except BadImageError as error:
            reasons.append(str(error))
    # the first of several frames is complete long before the file's end
    assert not any("\n" in reason for reason in reasons)
    assert len(reasons) >= (8 if name.startswith(("animated", "pages")) else 20)


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(preprocess, "LARGE_PIXELS", 10_000)
    inside, most = 0, 0
    lock = threading.Lock()

    def watched(image, size=224):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.05)
        with lock:
            inside -= 1
        return to_square(image, size)

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
    monkeypatch.setattr(preprocess, "LARGE_BYTES", 10)
    with pytest.raises(BadImageError):
        decode(foreign_files()["truncated.jpg"][0])
    taken = []
    thread = threading.Thread(target=lambda: taken.append(preprocess._large.acquire(timeout=1)))
    thread.start()
    thread.join()
    assert taken == [True]
    preprocess._large = threading.RLock()


def test_a_pipe_or_device_is_an_error_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, kind in ((tmp_path / "pipe.jpg", "named pipe"), ("/dev/zero", "device"), (tmp_path, "folder")):
        with pytest.raises(BadImageError, match=kind):
            decode(path)


def test_a_file_that_vanishes_is_a_reason(tmp_path, monkeypatch):
    file = tmp_path / "a.jpg"
    file.write_bytes(ordinary()["jpeg.jpg"])
    stat = os.stat

    def stat_then_gone(path, *rest, **options):
        found = stat(path, *rest, **options)
        file.unlink(missing_ok=True)
        return found

    monkeypatch.setattr("rice_lib.contract.image_file.os.stat", stat_then_gone)
    with pytest.raises(BadImageError, match=r"^no such file$"):
        decode(file)


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg"])
def test_a_name_that_no_file_can_have_is_a_reason(name):
    with pytest.raises(BadImageError, match="not a name"):
        decode(name)


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
