"""Colours under the image contract: depth, transparency, inks and profiles come out as a person sees them."""

import zlib

import numpy as np
import pytest
from PIL import Image
from support.corpus import (
    drawn,
    encoded,
    png,
    png_chunk,
    tiff,
)
from support.profiles import ADOBE_RGB, cmyk_profile, grey_profile, rgb_profile, srgb_profile

from rice_lib.contract.decode import BadImageError, decode, decode_with_notes, open_image


def picture(data: bytes) -> np.ndarray:
    """The upright picture at its own size."""
    return np.asarray(open_image(data)).astype(int)


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


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_white_are_an_error(kind):
    with pytest.raises(BadImageError, match="convert it to 8 or 16 bits"):
        decode(encoded(Image.fromarray(np.zeros((4, 4), kind)), "TIFF"))


def test_lab_is_an_error():
    with pytest.raises(BadImageError, match="Lab colours are not supported; convert it to RGB"):
        decode(encoded(Image.new("LAB", (4, 4)), "TIFF"))


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
    ],
)
def test_a_profile_that_cannot_be_used_is_passed_over_with_a_note(profile, note):
    image = Image.fromarray(drawn(250, 250))
    pixels, notes = decode_with_notes(encoded(image, "TIFF", icc_profile=profile))
    np.testing.assert_array_equal(pixels, decode(encoded(image, "TIFF")))
    assert notes == (note,)
