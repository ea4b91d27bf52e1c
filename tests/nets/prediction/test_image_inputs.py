"""Image preprocessing, file bytes to a network's input: real PNG and JPEG files, whole, odd and damaged ones."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from torso.envs import load_dataset
from torso.errors import DatasetError, InputError, SpecError
from torso.nets import ImageSpec
from torso.nets.prediction.image_inputs import decode_image
from torso.pictures import MAX_PIXELS

Array = np.ndarray[Any, Any]


def encoded(pixels: Array | Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def gray(height: int, width: int, **fields: Any) -> ImageSpec:
    return ImageSpec(channels=1, height=height, width=width, **fields)


def colour(height: int, width: int, **fields: Any) -> ImageSpec:
    return ImageSpec(channels=3, height=height, width=width, **fields)


def framed(height: int = 8, width: int = 8, seed: int = 0, ground: int = 0) -> Array:
    """Noise in a frame of one colour, so that the polarity is unambiguous."""
    pixels = np.random.default_rng(seed).integers(256, size=(height, width), dtype=np.uint8)
    pixels[[0, -1]] = pixels[:, [0, -1]] = ground
    return pixels


def decoded(data: bytes, spec: ImageSpec) -> Array:
    """Decode, and check shape, dtype and range."""
    values = decode_image(data, spec)
    assert values.dtype == np.float32
    assert values.shape == (spec.height, spec.width, spec.channels)
    assert values.min() >= 0
    assert values.max() <= spec.max_value * (1 + 1e-6)
    return values[:, :, 0] if spec.channels == 1 else values


# -- large ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centring", ["none", "box", "mass"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1"])
def test_a_large_picture_is_read_as_a_smaller_one_of_the_same_in_little_memory(centring: Any, mode: str) -> None:
    large = Image.fromarray(np.kron(SIX, np.ones((120, 120), np.uint8)))  # 3360 x 3360, 11 million pixels
    small = Image.fromarray(np.kron(SIX, np.ones((20, 20), np.uint8)))
    values = []
    for image in (large, small):
        if mode == "RGBA":
            image = Image.merge("RGBA", [Image.new("L", image.size, 255)] * 3 + [image])
        data = encoded(image.convert(mode, dither=Image.Dither.NONE))
        tracemalloc.start()
        values.append(decoded(data, gray(28, 28, centring=centring)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 70_000_000  # NumPy's: the pixels in colour are 34 million bytes; floats of them would be 135
    np.testing.assert_allclose(values[0], values[1], atol=8)


def test_a_picture_is_not_made_smaller_than_its_network_needs() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(2100, 2100), dtype=np.uint8)
    wide = decoded(encoded(pixels), gray(1050, 1050, polarity="none"))
    np.testing.assert_allclose(wide, pixels.reshape(1050, 2, 1050, 2).mean(axis=(1, 3)), atol=1)


# -- of the network's own size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("centring", ["none", "box", "mass"])
def test_a_png_of_the_networks_size_arrives_as_it_is(centring: Any) -> None:
    pixels = framed(9, 7)
    np.testing.assert_array_equal(decoded(encoded(pixels), gray(9, 7, centring=centring)), pixels)


@pytest.mark.parametrize("levels", [1, 16, 100])
def test_every_level_of_a_coarse_scan_arrives_as_it_is(levels: int) -> None:
    scan = np.zeros((4, levels + 3), np.uint8)
    scan[1, 1 : levels + 2] = np.arange(levels + 1)
    stored = np.rint(scan * (255 / levels)).astype(np.uint8)
    values = decoded(encoded(stored), gray(*scan.shape, max_value=float(levels)))
    np.testing.assert_array_equal(np.rint(values), scan)


def test_colours_arrive_as_they_are() -> None:
    pixels = np.dstack([framed(seed=seed) for seed in range(3)])
    np.testing.assert_array_equal(decoded(encoded(pixels), colour(8, 8)), pixels)


def test_max_value_is_the_lightest_pixels() -> None:
    pixels = framed()
    np.testing.assert_allclose(decoded(encoded(pixels), gray(8, 8, max_value=1.0)), pixels / 255, atol=1e-7)


# -- polarity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polarity", ["light-on-dark", "dark-on-light"])
def test_either_polarity_arrives_as_the_networks(polarity: Any) -> None:
    pixels = framed(ground=0 if polarity == "light-on-dark" else 255)
    spec = gray(8, 8, polarity=polarity)
    np.testing.assert_array_equal(decoded(encoded(pixels), spec), pixels)
    np.testing.assert_array_equal(decoded(encoded(255 - pixels), spec), pixels)


def test_polarity_is_what_most_of_the_edge_shows() -> None:
    pixels = np.zeros((10, 10), np.uint8)
    pixels[:, 4:6] = 255  # a stroke from edge to edge
    np.testing.assert_array_equal(decoded(encoded(pixels), gray(10, 10)), pixels)
    np.testing.assert_array_equal(decoded(encoded(255 - pixels), gray(10, 10)), pixels)


# -- the kinds of PNG and JPEG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ground", [0, 255])
def test_without_a_polarity_a_picture_is_taken_as_it_is(ground: int) -> None:
    pixels = framed(9, 7, ground=ground)
    np.testing.assert_array_equal(decoded(encoded(pixels), gray(9, 7, polarity="none")), pixels)
    with pytest.raises(
        SpecError, match=r"centring must be 'none' where polarity is 'none', got .*, which looks for strokes"
    ):
        gray(9, 7, polarity="none", centring="mass")


def test_colour_becomes_gray_by_its_luma() -> None:
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[1, 1], pixels[1, 2], pixels[1, 3] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    values = decoded(encoded(pixels), gray(3, 5))
    np.testing.assert_allclose(values[1, 1:4], [0.299 * 255, 0.587 * 255, 0.114 * 255], atol=1.0)


def test_gray_becomes_colour_by_repeating() -> None:
    pixels = framed()
    np.testing.assert_array_equal(decoded(encoded(pixels), colour(8, 8)), np.dstack([pixels] * 3))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_every_mode_of_png(mode: str) -> None:
    pixels = np.where(framed() > 127, 255, 0).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    np.testing.assert_array_equal(decoded(encoded(image), gray(8, 8)), pixels)


def test_sixteen_bits_a_pixel_are_scaled_and_not_cut_off() -> None:
    fine = np.zeros((4, 6), np.uint16)
    fine[1, 1:5] = [257, 10_000, 30_000, 65_535]
    data = encoded(fine)
    assert data[24] == 16, "the file should hold 16 bits a pixel"
    expected = np.rint(fine / 257)
    np.testing.assert_array_equal(decoded(data, gray(4, 6)), expected)
    np.testing.assert_array_equal(decoded(data, colour(4, 6)), np.dstack([expected] * 3))


def test_transparent_parts_are_white() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)  # transparent black
    pixels[2:6, 3:5] = (0, 0, 0, 255)
    pixels[4, 4] = (0, 0, 0, 51)  # a fifth of black
    on_white = np.full((8, 8), 255.0)
    on_white[2:6, 3:5] = 0
    on_white[4, 4] = 204
    values = decoded(encoded(pixels), gray(8, 8, polarity="dark-on-light"))
    np.testing.assert_array_equal(values, on_white)
    np.testing.assert_array_equal(decoded(encoded(pixels), gray(8, 8)), 255 - on_white)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_is_white(mode: str) -> None:
    pixels = np.full((8, 8), 90, np.uint8)
    pixels[3:5, 3:5] = 10
    image = Image.fromarray(pixels).convert(mode)
    transparent = {"L": 90, "RGB": (90, 90, 90), "P": image.getpixel((0, 0))}[mode]
    values = decoded(encoded(image, transparency=transparent), gray(8, 8, polarity="dark-on-light"))
    assert np.all(values[pixels == 90] == 255)
    assert np.all(np.abs(values[pixels == 10] - 10) <= 30)  # Pillow's web palette is coarse


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_of_every_mode(mode: str) -> None:
    pixels = np.zeros((32, 32), np.uint8)
    pixels[8:24, 8:24] = 255
    data = encoded(Image.fromarray(pixels).convert("RGB").convert(mode), "JPEG", quality=95)
    assert np.abs(decoded(data, gray(32, 32)) - pixels).mean() < 3


ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_photographs_are_turned_upright(kind: str, orientation: int) -> None:
    stored = np.zeros((16, 24), np.uint8)
    stored[3:8, 2:10] = 255  # off both diagonals
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    upright = ORIENTATIONS[orientation](stored)
    assert np.abs(decoded(data, gray(*upright.shape)) - upright).mean() < (8 if kind == "JPEG" else 1e-9)


BROKEN_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"a" * 30


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", BROKEN_EXIF])
def test_damaged_exif_data_harms_nothing(exif: bytes) -> None:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[4:12, 4:12] = 255
    assert np.abs(decoded(encoded(pixels, "JPEG", exif=exif, quality=95), gray(16, 16)) - pixels).mean() < 8


def test_a_progressive_jpeg() -> None:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[4:12, 4:12] = 255
    data = encoded(pixels, "JPEG", progressive=True, quality=95)
    assert np.abs(decoded(data, gray(16, 16)) - pixels).mean() < 8


# -- resizing and centring ---------------------------------------------------------------------------------------------

GLYPH = np.zeros((28, 28), np.uint8)  # a seven, in the 20x20 box in the middle, as in MNIST
GLYPH[4:7, 8:20] = 255
GLYPH[7:24, 16:19] = 200


def centre_of_mass(values: Array) -> tuple[float, float]:
    total = values.sum()
    rows, columns = np.indices(values.shape)
    return float((rows * values).sum() / total), float((columns * values).sum() / total)


def extent(values: Array) -> tuple[int, int]:
    rows, columns = np.nonzero(values > 64)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def drawing(zoom: int, top: int, left: int, size: int) -> Array:
    """The glyph alone, larger, somewhere on a white sheet, as a user would draw it."""
    glyph = np.kron(GLYPH[4:24, 8:20], np.ones((zoom, zoom), np.uint8))
    sheet = np.zeros((size, size), np.uint8)
    sheet[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
    return 255 - sheet


@pytest.mark.parametrize(("zoom", "top", "left"), [(3, 5, 9), (3, 90, 120), (8, 20, 90), (9, 7, 60)])
def test_mass_centring_makes_any_drawing_an_mnist_digit(zoom: int, top: int, left: int) -> None:
    values = decoded(encoded(drawing(zoom, top, left, 200)), gray(28, 28, centring="mass"))
    assert extent(values) == (20, 12)
    assert centre_of_mass(values) == pytest.approx((13.5, 13.5), abs=0.51)
    shift = np.round(np.subtract((13.5, 13.5), centre_of_mass(GLYPH.astype(float)))).astype(int)
    expected = np.roll(GLYPH.astype(float), tuple(shift), axis=(0, 1))
    assert np.abs(values - expected).mean() < 4


def test_mass_centring_shrinks_a_wide_drawing_to_the_box() -> None:
    sheet = np.full((100, 300), 255, np.uint8)
    sheet[40:60, 20:280] = 0
    values = decoded(encoded(sheet), gray(28, 28, centring="mass"))
    assert extent(values)[1] == 20
    assert centre_of_mass(values) == pytest.approx((13.5, 13.5), abs=0.51)


def test_mass_centring_never_moves_ink_out_of_the_frame() -> None:
    sheet = np.zeros((200, 200), np.uint8)
    sheet[150:190, 10:190] = 255
    sheet[10:150, 10:14] = 100  # faint, but ink: the mass is low, the box is tall
    values = decoded(encoded(sheet), gray(28, 28, centring="mass"))
    assert extent(np.where(values > 30, 255, 0)) == (20, 20)


def test_box_centring_fills_the_frame() -> None:
    values = decoded(encoded(drawing(5, 30, 70, 200)), gray(8, 8, centring="box", max_value=16.0))
    rows, columns = np.nonzero(values > 4)
    assert (rows.min(), rows.max()) == (0, 7)
    assert np.ptp(columns) + 1 == 5  # 12 / 20 of 8, rounded
    assert (columns.min(), columns.max()) in [(1, 5), (2, 6)]


def test_without_centring_the_whole_picture_shrinks() -> None:
    pixels = np.kron(framed(7, 5), np.ones((6, 6), np.uint8))
    np.testing.assert_allclose(decoded(encoded(pixels), gray(7, 5)), framed(7, 5), atol=1e-3)


def test_shrinking_averages_areas() -> None:
    pixels = framed(12, 12)
    expected = pixels.reshape(4, 3, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(decoded(encoded(pixels), gray(4, 4)), expected, atol=1e-3)


@pytest.mark.parametrize("centring", ["box", "mass"])
@pytest.mark.parametrize("paper", [255, 180, 140])
def test_gray_paper_is_no_ink(centring: Any, paper: int) -> None:
    white = drawing(3, 40, 60, 200)
    scanned = np.rint(white * (paper / 255)).astype(np.uint8)
    scanned[::7, ::3] -= np.minimum(scanned[::7, ::3], 3)  # paper is never of one gray
    spec = gray(28, 28, centring=centring)
    np.testing.assert_allclose(decoded(encoded(scanned), spec), decoded(encoded(white), spec), atol=8)


def test_coloured_paper_is_no_ink_either() -> None:
    paper = np.array([250, 235, 160]) / 255
    scanned = np.rint(drawing(3, 40, 60, 200)[:, :, None] * paper).astype(np.uint8)
    values = decoded(encoded(scanned), colour(28, 28, centring="mass"))
    expected = decoded(encoded(drawing(3, 40, 60, 200)), gray(28, 28, centring="mass"))
    np.testing.assert_allclose(values, np.dstack([expected] * 3), atol=3)


def test_centring_is_the_same_for_either_polarity() -> None:
    data = encoded(drawing(3, 40, 60, 200))
    light, dark = (gray(28, 28, centring="mass", polarity=p) for p in ("light-on-dark", "dark-on-light"))
    np.testing.assert_allclose(decoded(data, light), 255 - decoded(data, dark), atol=1e-4)


# -- strokes, whatever the sheet ---------------------------------------------------------------------------------------

SIX = np.zeros((28, 28), np.uint8)  # centred as MNIST's digits are: 20 pixels high, mass in the middle
SIX[4:24, 9:12] = 255
SIX[21:24, 9:20] = SIX[13:16, 9:20] = SIX[13:24, 17:20] = 255
SIX = np.roll(SIX, -2, axis=0)
DIGIT = gray(28, 28, centring="mass")


def enlarged(glyph: Array, factor: int = 4) -> Array:
    return np.kron(glyph, np.ones((factor, factor), np.uint8))


def inked(ink: Any, ground: Any, glyph: Array = SIX) -> Array:
    """The glyph in one colour on another."""
    share = glyph[:, :, np.newaxis] / 255
    return np.rint(np.asarray(ink) * share + np.asarray(ground) * (1 - share)).astype(np.uint8)


def transparent(ink: Any, glyph: Array = SIX, beneath: Any = None) -> Array:
    """The glyph in one colour on transparency. beneath: the colour of the transparent pixels."""
    pixels = np.zeros((*glyph.shape, 4), np.uint8)
    pixels[:, :, :3] = np.where(glyph[:, :, np.newaxis] > 0, ink, ink if beneath is None else beneath)
    pixels[:, :, 3] = glyph
    return pixels


@pytest.mark.parametrize("ink", [0, 255, 40, 128, 200, (255, 255, 0), (0, 0, 255), (220, 20, 60)])
@pytest.mark.parametrize("beneath", [None, 0, 255])
def test_ink_on_transparency_is_seen_whatever_its_colour(ink: Any, beneath: Any) -> None:
    for glyph in (SIX, enlarged(SIX)):
        values = decoded(encoded(transparent(ink, glyph, beneath)), DIGIT)
        assert values.max() >= 192
        assert np.abs(values * (255 / values.max()) - SIX).mean() < 4


@pytest.mark.parametrize("mode", ["LA", "P", "L"])
def test_white_ink_on_every_kind_of_transparency_is_seen(mode: str) -> None:
    if mode == "LA":
        data = encoded(Image.merge("LA", (Image.new("L", (28, 28), 255), Image.fromarray(SIX))))
    else:
        image = Image.fromarray(np.where(SIX > 0, 1, 0).astype(np.uint8) if mode == "P" else SIX)
        if mode == "P":
            image = Image.frombytes("P", (28, 28), image.tobytes())
            image.putpalette([0, 200, 0, 255, 255, 255])
        data = encoded(image, transparency=0)
    np.testing.assert_allclose(decoded(data, DIGIT), SIX, atol=1)


def test_sixteen_bits_with_a_transparent_value() -> None:
    fine = np.where(SIX > 0, 65_535, 30_000).astype(np.uint16)
    np.testing.assert_allclose(decoded(encoded(fine, transparency=30_000), DIGIT), SIX, atol=1)


def test_a_sheet_with_a_transparent_border_keeps_its_paper() -> None:
    sheet = np.zeros((40, 40, 4), np.uint8)
    sheet[6:34, 6:34] = np.dstack([inked(0, [255] * 3), np.full((28, 28), 255)])
    assert np.abs(decoded(encoded(sheet), DIGIT) - SIX).mean() < 6


COLOURS = [
    ((255, 0, 0), (255, 255, 255)),
    ((255, 255, 0), (255, 255, 255)),
    ((0, 0, 255), (0, 0, 0)),
    ((0, 0, 0), (255, 0, 0)),
    ((0, 0, 0), (0, 0, 255)),
    ((255, 0, 0), (0, 0, 255)),
    ((0, 130, 0), (255, 0, 0)),  # of one luma
    ((100, 100, 100), (180, 180, 180)),
    ((0, 0, 0), (100, 100, 100)),
    ((255, 255, 255), (150, 150, 150)),
]


@pytest.mark.parametrize(("ink", "ground"), COLOURS)
def test_ink_of_any_colour_on_any_other_is_seen(ink: Any, ground: Any) -> None:
    for glyph in (SIX, enlarged(SIX)):
        assert np.abs(decoded(encoded(inked(ink, ground, glyph)), DIGIT) - SIX).mean() < 5


@pytest.mark.parametrize(("ink", "ground"), COLOURS)
@pytest.mark.parametrize("centring", ["box", "mass"])
def test_a_saturated_channel_is_no_trouble(centring: Any, ink: Any, ground: Any) -> None:
    try:
        values = decoded(encoded(inked(ink, ground, enlarged(SIX))), colour(28, 28, centring=centring))
    except InputError as error:
        assert "strokes" in str(error)  # noqa: PT017 - of one brightness, on which a polarity says nothing
    else:
        assert np.isfinite(values).all()
        assert values.max() == pytest.approx(255)


def placed(size: int, scale: int, top: int, left: int) -> Array:
    """The glyph, so many pixels high, somewhere in a frame."""
    glyph = np.asarray(Image.fromarray(SIX[2:22, 9:20]).resize((scale * 11 // 20, scale), Image.Resampling.BOX))
    sheet = np.zeros((size, size), np.uint8)
    sheet[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
    return sheet


@pytest.mark.parametrize("size", [27, 28, 29, 56])
@pytest.mark.parametrize(("scale", "top", "left"), [(10, 0, 0), (10, 15, 20), (20, 0, 0), (20, 7, 15), (13, 14, 1)])
@pytest.mark.parametrize("inverted", [False, True])
def test_strokes_are_centred_in_frames_of_every_size(
    size: int, scale: int, top: int, left: int, inverted: bool
) -> None:
    sheet = placed(size, scale, top, left)
    values = decoded(encoded(255 - sheet if inverted else sheet), DIGIT)
    assert centre_of_mass(values) == pytest.approx((13.5, 13.5), abs=0.51)
    assert extent(values)[0] == 20
    assert values.max() == pytest.approx(255)


@pytest.mark.parametrize("name", ["digits", "mnist"])
@pytest.mark.parametrize("inverted", [False, True])
def test_training_images_arrive_bit_for_bit(name: str, inverted: bool) -> None:
    try:
        data = load_dataset(name, download=False)
    except DatasetError as error:
        if name == "digits":  # which comes along
            raise
        pytest.skip(str(error))
    rows, image = data.train.inputs[:500], data.train.image
    assert image is not None
    for scan in rows:
        stored = np.rint(scan * (255 / image.max_value)).astype(np.uint8)
        values = decode_image(encoded(255 - stored if inverted else stored), image)
        np.testing.assert_array_equal(np.rint(values[:, :, 0]), scan)


def test_a_training_image_enlarged_is_only_resized() -> None:
    np.testing.assert_allclose(decoded(encoded(enlarged(SIX)), DIGIT), SIX, atol=1e-3)


BLANK = {
    **{f"gray {level}": np.full((50, 50), level, np.uint8) for level in (0, 100, 128, 255)},
    **{f"of shape {shape}": np.full(shape, 255, np.uint8) for shape in ((1, 1), (1, 400), (400, 1), (28, 28))},
    "blue": np.full((50, 50, 3), (0, 0, 255), np.uint8),
    "transparent": np.zeros((50, 50, 4), np.uint8),
    "transparent white": np.dstack([np.full((50, 50, 3), 255, np.uint8), np.zeros((50, 50), np.uint8)]),
    "sixteen bits": np.full((50, 50), 40_000, np.uint16),
}


@pytest.mark.parametrize("name", BLANK)
@pytest.mark.parametrize("centring", ["none", "box", "mass"])
@pytest.mark.parametrize("make", [gray, colour])
def test_a_blank_sheet_is_refused(make: Any, centring: Any, name: str) -> None:
    message = r"image must be an image with strokes that .* by at least \d+ of 255, got a blank one, which differs by 0"
    with pytest.raises(InputError, match=message):
        decode_image(encoded(BLANK[name]), make(28, 28, centring=centring))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_papers_noise_is_no_ink(kind: str) -> None:
    paper = np.random.default_rng(0).normal(200, 4, (100, 100)).clip(0, 255).astype(np.uint8)
    with pytest.raises(InputError, match="got a blank one"):
        decode_image(encoded(paper, kind), DIGIT)


def test_a_photograph_may_be_of_one_colour() -> None:
    assert np.all(decoded(encoded(np.full((50, 50), 90, np.uint8)), gray(28, 28, polarity="none")) == 90)


@pytest.mark.parametrize("polarity", ["light-on-dark", "dark-on-light"])
@pytest.mark.parametrize("centring", ["none", "box", "mass"])
def test_a_single_speck_is_no_trouble(polarity: Any, centring: Any) -> None:
    sheet = np.full((300, 300), 255, np.uint8)
    sheet[150, 150] = 0
    decoded(encoded(sheet), gray(28, 28, polarity=polarity, centring=centring))


# -- what is refused ---------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int, content: bytes = b"") -> bytes:
    """Decompression bomb: a PNG whose header names a vast size; zeros compress to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = content or zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"),
    [(30_000, 30_000), (12_000, 12_000), (10_000, 10_000), (4097, 4096), (2**31 - 1, 2**31 - 1), (16_777_217, 1)],
)
def test_a_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    # 12,000 x 12,000 lies between Pillow's own limits, where it would warn, and 10,000 x 10,000 barely above them
    data = bomb(width, height)
    assert len(data) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"image must be at most {MAX_PIXELS} decoded pixels, got"):
            decode_image(data, gray(28, 28))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_jpeg_bomb_is_refused_too() -> None:
    data = bytearray(encoded(np.zeros((16, 16), np.uint8), "JPEG"))
    start = data.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    data[start + 5 : start + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(InputError, match="decoded pixels"):
        decode_image(bytes(data), gray(28, 28))


def test_the_cap_is_the_callers() -> None:
    data = encoded(framed(20, 30))
    decode_image(data, gray(8, 8), max_pixels=600)
    with pytest.raises(InputError, match="at most 599 decoded pixels, got 30 x 20"):
        decode_image(data, gray(8, 8), max_pixels=599)


def test_pillows_own_limit_may_be_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="decoded pixels"):
        decode_image(encoded(framed(20, 30)), gray(8, 8))
    decode_image(encoded(framed(10, 15)), gray(8, 8))  # here Pillow alone would warn


def test_a_compressed_text_bomb_is_refused() -> None:
    data = encoded(framed())
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000), 9))
    with pytest.raises(InputError):
        decode_image(data[:33] + text + data[33:], gray(8, 8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)
    data = encoded(noise, kind)
    for length in range(0, int(len(data) * 0.95), 97):
        with pytest.raises(InputError, match="image must be a"):
            decode_image(data[:length], gray(64, 64))


NO_PALETTE = b"\x89PNG\r\n\x1a\n" + b"".join(  # colours by number, and no colours
    chunk(kind, content)
    for kind, content in [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(8 * 9))),
        (b"IEND", b""),
    ]
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "image must be a PNG or JPEG, got 0 bytes that are neither"),
        (b"hello", "image must be a PNG or JPEG, got 5 bytes"),
        (encoded(framed(), "GIF"), "image must be a PNG or JPEG"),
        (encoded(framed(), "BMP"), "image must be a PNG or JPEG"),
        (encoded(framed(), "TIFF"), "image must be a PNG or JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "image must be a PNG or JPEG"),
        (bomb(100, 100, b"no zlib stream"), "image must be a whole PNG or JPEG, got one that cannot be decoded"),
        (bomb(0, 8), "image must be a PNG or JPEG"),
        (NO_PALETTE, "image must be a whole PNG or JPEG"),
        ("a/path.png", "image must be the bytes of a PNG or JPEG, got str"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_png_or_jpeg_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_image(data, gray(8, 8))


def test_the_field_names_the_image() -> None:
    with pytest.raises(InputError) as caught:
        decode_image(b"hello", gray(8, 8), field="images.encoded[3]")
    assert caught.value.field == "images.encoded[3]"


def test_bytes_like_objects_are_taken() -> None:
    data = encoded(framed())
    for form in (bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(decoded(form, gray(8, 8)), framed())  # type: ignore[arg-type]


# -- any bytes at all --------------------------------------------------------------------------------------------------

SEEDS = [
    encoded(framed()),
    encoded(np.dstack([framed(seed=seed) for seed in range(3)])),
    encoded(Image.fromarray(framed()).convert("P"), transparency=b"\x00\x80\xff"),
    encoded(framed().astype(np.uint16) * 257),
    encoded(framed(), exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    encoded(Image.fromarray(framed()), save_all=True, append_images=[Image.fromarray(framed(seed=1))]),  # an APNG
    encoded(framed(), "JPEG"),
    encoded(np.dstack([framed(seed=seed) for seed in range(3)]), "JPEG", progressive=True),
    encoded(framed(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
]


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        new = draw(st.binary(max_size=4))
        data[at : at + draw(st.integers(0, 4))] = new
    if draw(st.booleans()) and data[:4] == b"\x89PNG":
        return with_checksums(bytes(data))
    return bytes(data)


def with_checksums(data: bytes) -> bytes:
    """Recompute each chunk's checksum, so that the decoder reads the damaged content."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        length = min(struct.unpack(">I", data[at : at + 4])[0], len(data) - at - 12)
        out += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out


@settings(max_examples=300)
@given(st.binary(max_size=200) | damaged_files(), st.sampled_from([1, 3]), st.sampled_from(["none", "box", "mass"]))
def test_any_bytes_are_an_image_or_an_input_error(data: bytes, channels: int, centring: Any) -> None:
    spec = ImageSpec(channels=channels, height=8, width=8, centring=centring)
    try:
        values = decode_image(data, spec, max_pixels=1_000_000)
    except InputError:
        return
    assert values.shape == (8, 8, channels)
    assert np.isfinite(values).all()


def test_no_warning_of_pillows_leaks_and_none_of_the_users_is_lost() -> None:
    apng_of_no_frames = encoded(framed())
    apng_of_no_frames = apng_of_no_frames[:33] + chunk(b"acTL", bytes(8)) + apng_of_no_frames[33:]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode_image(apng_of_no_frames, gray(8, 8))
        decode_image(encoded(framed(), "JPEG", exif=BROKEN_EXIF), gray(8, 8))
        with pytest.raises(InputError):
            decode_image(bomb(12_000, 12_000), gray(8, 8))
        warnings.warn("the user's", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["the user's"]


def test_several_threads_may_decode_at_once() -> None:
    data, expected = encoded(framed()), framed()
    filters = list(warnings.filters)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(100):
            if not np.array_equal(decode_image(data, gray(8, 8))[:, :, 0], expected):
                wrong.append(data)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(warnings.filters) == filters
