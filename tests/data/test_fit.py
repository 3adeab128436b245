"""Pictures as pixels: sizes, channels, depths, orientation; and pictures that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from picture_sets import files, folder, noise, picture, png
from PIL import Image

from turningpoint.data import PictureError, open_images
from turningpoint.data.fit import FITS, fitted
from turningpoint.data.pictures import decoded

GOLDEN = "golden/edm/tiny_dataset_expected.npz"


def smooth(height, width):
    """A picture of slow waves, whose every resize is nearly the waves themselves, and the waves."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    waves = np.stack([100 + 90 * np.outer(np.cos(a * y), np.cos(b * x)) for a, b in ((2, 1), (1, 3), (3, 2))])
    return picture(waves.round().astype(np.uint8)), waves


# ---- sizes


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_the_wanted_size_keeps_every_pixel(fit, channels):
    pixels = noise(0, 9, 7, channels)
    np.testing.assert_array_equal(fitted(picture(pixels), (channels, 9, 7), fit), pixels)
    np.testing.assert_array_equal(fitted(picture(pixels), None, fit), pixels)


def test_pictures_of_edms_tool_are_met_by_square(request):
    expected = np.load(request.path.parent / GOLDEN)
    for source, made in zip(expected["source_images_sorted"], expected["images"], strict=True):
        found = fitted(Image.fromarray(source), (3, 16, 16), "square")
        assert np.abs(found.astype(int) - made).max() <= 1


def test_crop_halves_by_means_then_cuts_the_centre():
    pixels = noise(1, 16, 24, 3)
    means = pixels.reshape(3, 8, 2, 12, 2).mean((2, 4))
    found = fitted(picture(pixels), (3, 8, 8))
    assert np.abs(found - means[:, :, 2:10]).max() <= 1  # rounded twice, along either side
    quarters = pixels.reshape(3, 4, 4, 6, 4).mean((2, 4))
    assert np.abs(fitted(picture(pixels), (3, 4, 4)) - quarters[:, :, 1:5]).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(30, 48), (70, 100), (11, 16), (16, 40)])
def test_crop_is_the_sequence_that_was_published(height, width):
    """Halve the smaller side while it is twice 16, scale it to 16, cut 16x16 at the centre."""
    given = picture(noise(2, height, width))
    found = fitted(given, (3, 16, 16))
    while min(given.size) >= 32:
        given = given.resize((given.width // 2, given.height // 2), Image.Resampling.BOX)
    scale = 16 / min(given.size)
    given = given.resize((round(given.width * scale), round(given.height * scale)), Image.Resampling.BICUBIC)
    x, y = (given.width - 16) // 2, (given.height - 16) // 2
    np.testing.assert_array_equal(found, np.asarray(given).transpose(2, 0, 1)[:, y : y + 16, x : x + 16])


@pytest.mark.parametrize("fit", ["crop", "square", "stretch"])
@pytest.mark.parametrize("shape", [(20, 20), (10, 30), (40, 24), (90, 90)])
def test_every_fit_shows_the_same_waves(fit, shape):
    """Against the waves themselves, at the places where the fit says that the pixels are."""
    given, _ = smooth(60, 80)
    height, width = shape
    scale = max(height / 60, width / 80)
    down, across = (height / 60, width / 80) if fit == "stretch" else (scale, scale)
    y, x = ((np.arange(n) + 0.5 - n / 2) / s for n, s in ((height, down), (width, across)))
    y, x = (y + 30) / 60, (x + 40) / 80
    waves = np.stack([100 + 90 * np.outer(np.cos(a * y), np.cos(b * x)) for a, b in ((2, 1), (1, 3), (3, 2))])
    found = fitted(given, (3, *shape), fit)
    assert found.shape == (3, *shape)
    slope = 90 * np.hypot(3 / 60, 3 / 80)  # grey levels per pixel of the source, at most
    assert np.abs(found - waves).max() < 1 + slope  # rounding twice; sizes and cuts are whole pixels


def test_exact_refuses_another_size_and_other_channels(refuses):
    given = picture(noise(0, 4, 5))
    with refuses("the picture has 3 channels of 4x5; accepted: 3 channels of 5x4", PictureError):
        fitted(given, (3, 5, 4), "exact")
    with refuses("the picture has 3 channels of 4x5; accepted: 1 channels of 4x5", PictureError):
        fitted(given, (1, 4, 5), "exact")


def test_bad_questions_are_one_sentence(refuses, monkeypatch):
    given = picture(noise(0))
    with refuses("fit is 'pad'; accepted: crop, square, stretch, exact"):
        fitted(given, (3, 4, 4), "pad")
    for shape in ((2, 4, 4), (4, 4), (3, 0, 4)):
        with refuses("accepted for pictures"):
            fitted(given, shape)
    monkeypatch.setattr("turningpoint.data.fit.LARGEST", 1000)
    with refuses("too long and thin", PictureError):
        fitted(picture(noise(0, 2, 300)), (3, 8, 8))


# ---- channels and depths


def test_grey_and_colour_become_each_other():
    grey, colour = noise(0, channels=1), noise(1)
    np.testing.assert_array_equal(fitted(picture(grey), (3, 6, 8)), np.repeat(grey, 3, 0))
    luma = np.tensordot([0.299, 0.587, 0.114], colour, 1)
    assert np.abs(fitted(picture(colour), (1, 6, 8))[0] - luma).max() <= 0.51


def test_palettes_are_their_colours():
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "P")
    colours = noise(3, 1, 6)[:, 0]
    palette.putpalette(colours.T.tobytes())
    np.testing.assert_array_equal(fitted(palette), colours.reshape(3, 2, 3))


def test_one_bit_and_cmyk():
    bits = Image.fromarray(np.array([[True, False]]))
    assert (bits.mode, fitted(bits).tolist()) == ("1", [[[255, 0]]])
    assert fitted(Image.new("CMYK", (2, 1), (0, 0, 0, 255)))[:, 0, 0].tolist() == [0, 0, 0]


def test_what_is_transparent_lies_over_white():
    pixels = noise(4, channels=4)
    pixels[3, 0], pixels[3, 1] = 0, 255
    found = fitted(picture(pixels))
    assert found.shape == (3, 6, 8)
    share = pixels[3] / 255
    assert np.abs(found - (share * pixels[:3] + (1 - share) * 255)).max() <= 1
    np.testing.assert_array_equal(found[:, 1], pixels[:3, 1])
    assert (found[:, 0] == 255).all()
    for fit in ("crop", "exact"):
        np.testing.assert_array_equal(fitted(picture(pixels), (4, 6, 8), fit), pixels)
    veiled = Image.merge("LA", [picture(pixels[:1]), picture(pixels[3:])])
    assert fitted(veiled).shape == (1, 6, 8)
    np.testing.assert_array_equal(fitted(veiled)[0, 1], pixels[0, 1])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    grey = noise(5, channels=1)[0]
    file = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(file, kind)
    np.testing.assert_array_equal(fitted(decoded(file, "it"))[0], grey)
    deep = np.array([[0, 128, 129, 65535]], np.uint16)
    assert fitted(Image.fromarray(deep)).tolist() == [[[0, 0, 1, 255]]]


@pytest.mark.parametrize(
    "values", [np.full((2, 2), 2**20, np.int32), np.full((2, 2), -1, np.int32), np.zeros((2, 2), np.float32)]
)
def test_deeper_pictures_are_refused(refuses, values):
    with refuses("accepted: 8 or 16 bits", PictureError):
        fitted(Image.fromarray(values))


# ---- files


@pytest.mark.parametrize(
    ("orientation", "turns", "mirrored"),
    [(1, 0, False), (3, 2, False), (6, 3, False), (8, 1, False), (2, 0, True)],
)
def test_exif_orientation_is_honoured(orientation, turns, mirrored):
    pixels = noise(6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture(pixels).save(file, "PNG", exif=exif)
    upright = np.rot90(pixels, turns, (1, 2))
    np.testing.assert_array_equal(fitted(decoded(file, "it")), upright[:, :, ::-1] if mirrored else upright)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
def test_every_format_is_read(kind, tmp_path):
    suffix = {"JPEG": "JPG"}.get(kind, kind)
    given, _ = smooth(20, 20)
    given.save(tmp_path / f"a.{suffix}", kind, **({"lossless": True} if kind == "WEBP" else {}))
    (found,) = (open_images(tmp_path).pixels(0),)
    exact = kind not in ("JPEG", "GIF")  # those have their own losses
    assert np.abs(found - np.asarray(given).transpose(2, 0, 1).astype(float)).max() <= (0 if exact else 32)


def _jpeg():
    file = io.BytesIO()
    picture(noise(0, 64, 64)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "named"),
    [
        ("a.png", b"words", "it is none of PNG, JPEG"),
        ("a.png", b"", "it is none of PNG, JPEG"),
        (
            "a.png",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n",
            "it is none of",
        ),
        ("a.png", png(noise(0))[:-40], "."),
        ("a.png", png(noise(0)).replace(b"IDAT", b"IDAX"), "."),
        ("a.jpg", _jpeg()[: len(_jpeg()) // 2], ".*truncated"),
    ],
)
def test_a_damaged_picture_is_named(tmp_path, refuses, name, data, named):
    images = open_images(folder(tmp_path / "set", files(["0.png"]) | {name: data}))
    assert images.pixels(0).shape == (3, 6, 8)
    with refuses(f"the file '.*set/{name}' cannot be read as a picture \\({named}", PictureError):
        images.pixels(1)


def test_a_picture_that_is_gone_is_named(tmp_path, refuses):
    images = open_images(folder(tmp_path, files(["0.png"])))
    (tmp_path / "0.png").unlink()
    with refuses("the file '.*0.png' cannot be read \\(No such file or directory\\)", PictureError):
        images.picture(0)


def test_a_bomb_is_not_decoded(tmp_path, refuses, monkeypatch):
    images = open_images(folder(tmp_path, {"0.png": png(noise(0, 50, 50))}))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with refuses("the file '.*0.png' cannot be read as a picture .*exceeds limit", PictureError):
        images.picture(0)
