"""Image augmentation: shifts, rotations, scalings and elastic deformations, against pixels moved one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from host_transfers import refuse_host_transfers
from hypothesis import given, settings
from hypothesis import strategies as st

from torso.agents.supervised.augmentation import Augmentation, augmented, shifted, smooth_noise, warped
from torso.errors import ConfigError, InputError

EVERYTHING = Augmentation(max_shift_px=2.0, max_rotation_deg=20.0, max_scale=0.2, elastic_px=0.7)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turned(images: torch.Tensor, **changes: Any) -> torch.Tensor:
    """Warp the images [B, H, W] by changes given once for all of them."""
    batch = len(images)
    plain = {"rotation_deg": 0.0, "scale": (1.0, 1.0), "shift_px": (0.0, 0.0)} | changes
    tensors = {
        name: torch.tensor(value, dtype=torch.float64).expand(batch, *np.shape(value)) for name, value in plain.items()
    }
    return warped(images, "hw", **tensors)


def pixel_at(image: np.ndarray, row: float, column: float) -> float:
    """Linear interpolation of an image that goes on as its edge does."""
    height, width = image.shape
    row, column = min(max(row, 0.0), height - 1.0), min(max(column, 0.0), width - 1.0)
    top, left = math.floor(row), math.floor(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = row - top, column - left
    upper = (1 - x) * image[top, left] + x * image[top, right]
    return (1 - y) * upper + y * ((1 - x) * image[bottom, left] + x * image[bottom, right])


def oracle(
    image: np.ndarray, degrees: float, scale: np.ndarray, shift: np.ndarray, displacement: np.ndarray
) -> np.ndarray:
    """Trace every pixel of the result back to its source: unshift, unrotate, unscale, then displace."""
    height, width = image.shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    angle = math.radians(degrees)
    result = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            right, down = np.array([column, row]) - shift - centre
            # counterclockwise with rows that grow downwards: back by the angle is clockwise
            back_right = right * math.cos(angle) - down * math.sin(angle)
            back_down = right * math.sin(angle) + down * math.cos(angle)
            source = np.array([back_right, back_down]) / scale + centre + displacement[:, row, column]
            result[row, column] = pixel_at(image, source[1], source[0])
    return result


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    degrees=st.floats(-180, 180),
    scale=st.tuples(st.floats(0.4, 2.0), st.floats(0.4, 2.0)),
    shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    seed=st.integers(0, 1000),
)
def test_every_pixel_is_where_the_oracle_finds_it(
    height: int, width: int, degrees: float, scale: tuple[float, float], shift: tuple[float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image, displacement = rng.normal(size=(height, width)), rng.normal(size=(2, height, width))
    result = warped(
        torch.from_numpy(image)[None],
        "hw",
        rotation_deg=torch.tensor([degrees], dtype=torch.float64),
        scale=torch.tensor([scale], dtype=torch.float64),
        shift_px=torch.tensor([shift], dtype=torch.float64),
        displacement_px=torch.from_numpy(displacement)[None],
    )
    expected = oracle(image, degrees, np.array(scale), np.array(shift), displacement)
    np.testing.assert_allclose(result[0], expected, atol=1e-9)


def test_right_angles_are_numpys() -> None:
    image = torch.randint(256, (1, 7, 7), dtype=torch.uint8, generator=generator())
    for quarter in range(1, 4):
        rotated = np.rot90(image[0].numpy(), quarter)
        np.testing.assert_array_equal(turned(image, rotation_deg=90.0 * quarter)[0], rotated)
    long = torch.randint(256, (1, 5, 8), dtype=torch.uint8, generator=generator())
    assert torch.equal(turned(long, rotation_deg=180.0), long.flip(1, 2))


def test_a_dot_turns_counterclockwise_by_the_angle() -> None:
    image = torch.zeros(1, 21, 21)
    image[0, 10, 18] = 1.0  # 8 pixels right of the centre
    result = turned(image, rotation_deg=30.0)[0]
    rows, columns = torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing="ij")
    assert float((result * rows).sum() / result.sum()) == pytest.approx(10 - 8 * math.sin(math.radians(30)), abs=0.1)
    assert float((result * columns).sum() / result.sum()) == pytest.approx(10 + 8 * math.cos(math.radians(30)), abs=0.1)


def test_shifts_roll_what_is_inside_and_repeat_the_edge() -> None:
    image = torch.randint(256, (1, 6, 9), dtype=torch.uint8, generator=generator())
    result = turned(image, shift_px=(-3.0, 2.0))
    assert torch.equal(result[:, 2:, :-3], image.roll((2, -3), (1, 2))[:, 2:, :-3])
    assert torch.equal(result[:, 0, :-3], image[:, 0, 3:])
    assert torch.equal(result[:, 2:, -1], image[:, :-2, -1])
    between = turned(image.double(), shift_px=(0.5, 0.0))
    torch.testing.assert_close(between[:, :, 1:], (image[:, :, 1:].double() + image[:, :, :-1].double()) / 2)


def test_scales_multiply_height_and_width() -> None:
    columns = torch.arange(9.0, dtype=torch.float64).expand(1, 5, 9)
    torch.testing.assert_close(turned(columns, scale=(2.0, 1.0)), 4 + (columns - 4) / 2)
    torch.testing.assert_close(turned(columns, scale=(1.0, 2.0)), columns)


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(max_shift_px=2), Augmentation(max_shift_px=1.5)])
def test_layouts_agree(augmentation: Augmentation) -> None:
    images = torch.randint(256, (6, 3, 9, 12), dtype=torch.uint8, generator=generator())
    as_chw = augmented(images, augmentation, "chw", generator(1))
    as_hwc = augmented(images.permute(0, 2, 3, 1).contiguous(), augmentation, "hwc", generator(1))
    assert torch.equal(as_hwc.permute(0, 3, 1, 2), as_chw)
    assert torch.equal(augmented(images[:, 1], augmentation, "hw", generator(1)), as_chw[:, 1])
    assert as_chw.shape == images.shape
    assert not torch.equal(as_chw, images)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.int64, torch.bool, torch.float16, torch.float32, torch.float64]
)
def test_dtypes_and_ranges_stay(dtype: torch.dtype) -> None:
    high = 2 if dtype == torch.bool else 256
    images = torch.randint(high, (20, 8, 8), generator=generator()).to(dtype)
    result = augmented(images, EVERYTHING, "hw", generator(1))
    assert result.dtype == dtype
    assert result.double().min() >= images.double().min()
    assert result.double().max() <= images.double().max() + 1e-4
    in_double = augmented(images.double(), EVERYTHING, "hw", generator(1))
    tolerance = 0.2 if dtype == torch.float16 else 0.5 if not dtype.is_floating_point else 1e-3
    torch.testing.assert_close(result.double(), in_double, rtol=0, atol=tolerance + 1e-3)


def test_the_generator_decides_all() -> None:
    images = torch.rand(16, 8, 8, generator=generator())
    first = augmented(images, EVERYTHING, "hw", generator(1))
    before = torch.get_rng_state()
    assert torch.equal(first, augmented(images, EVERYTHING, "hw", generator(1)))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, augmented(images, EVERYTHING, "hw", generator(2)))
    same = augmented(images[:1].repeat(16, 1, 1), EVERYTHING, "hw", generator(1))
    assert len({image.numpy().tobytes() for image in same}) == 16


def drawn_affine(augmentation: Augmentation, batch: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure what was drawn, on images whose pixels are their rows and columns.

    Returns (matrix [B, 2, 2]: where a step down and a step right in the result lead; [B, 2]: where its centre is from).
    """
    rows, columns = torch.meshgrid(*[torch.arange(-10.0, 11.0, dtype=torch.float64)] * 2, indexing="ij")
    result = augmented(torch.stack([rows, columns]).expand(batch, 2, 21, 21), augmentation, "chw", generator())
    steps = torch.stack([result[:, :, 11, 10] - result[:, :, 9, 10], result[:, :, 10, 11] - result[:, :, 10, 9]], dim=2)
    return steps / 2, result[:, :, 10, 10]


def spans(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether values lie between the bounds and are spread evenly over what is between."""
    low_share = float((values < (low + high) / 2).double().mean())
    near = 0.02 * (high - low)
    inside = low - 1e-6 <= float(values.min()) < low + near and high - near < float(values.max()) <= high + 1e-6
    return inside and abs(low_share - 0.5) < 0.05


def test_each_change_is_drawn_evenly_between_its_bounds() -> None:
    matrix, centre = drawn_affine(Augmentation(max_rotation_deg=30.0))
    assert spans(torch.rad2deg(torch.atan2(matrix[:, 0, 1], matrix[:, 0, 0])), -30, 30)
    torch.testing.assert_close(centre, torch.zeros_like(centre), atol=1e-6, rtol=0)
    matrix, _ = drawn_affine(Augmentation(max_scale=0.25))
    assert spans(1 / matrix[:, 0, 0], 0.75, 1.25)
    assert spans(1 / matrix[:, 1, 1], 0.75, 1.25)
    assert abs(float(torch.corrcoef(matrix[:, (0, 1), (0, 1)].T)[0, 1])) < 0.1
    matrix, centre = drawn_affine(Augmentation(max_shift_px=3.5))
    assert spans(centre[:, 0], -3.5, 3.5)
    assert spans(centre[:, 1], -3.5, 3.5)
    torch.testing.assert_close(matrix, torch.eye(2, dtype=torch.float64).expand_as(matrix), atol=1e-6, rtol=0)


def test_elastic_bends_deviate_by_their_pixels() -> None:
    """On an image of its own columns a pixel's value is the column it was sampled from."""
    columns = torch.arange(40.0).expand(400, 20, 40)
    bent = augmented(columns, Augmentation(elastic_px=0.8), "hw", generator())
    moved_by = (bent - columns)[:, :, 5:-5]  # where no edge is near
    assert float(moved_by.std()) == pytest.approx(0.8, rel=0.02)
    assert float(moved_by.mean()) == pytest.approx(0.0, abs=0.05)


def test_elastic_noise_is_as_wide_everywhere_and_smooth() -> None:
    noise = smooth_noise(4000, 14, 21, generator())
    assert noise.shape == (4000, 2, 14, 21)
    torch.testing.assert_close(noise.std(dim=0), torch.ones(2, 14, 21), atol=0.05, rtol=0)
    # The Gaussian's deviation is 2 pixels: at a distance d the correlation is exp(-d^2 / (4 x 2^2)).
    for distance in (1, 2, 4, 8):
        correlation = float((noise[..., distance:] * noise[..., :-distance]).mean())
        assert correlation == pytest.approx(math.exp(-(distance**2) / 16), abs=0.02)
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 0.02


def test_whole_shifts_alone_move_whole_pixels() -> None:
    images = torch.randint(256, (30, 6, 6), dtype=torch.uint8, generator=generator())
    expected = shifted(images, 2, "hw", generator(3))
    assert torch.equal(augmented(images, Augmentation(max_shift_px=2.0), "hw", generator(3)), expected)


def test_the_identity_changes_and_draws_nothing() -> None:
    images = torch.rand(3, 4, 4)
    draws = generator()
    before = draws.get_state()
    assert Augmentation().is_identity
    assert not EVERYTHING.is_identity
    assert torch.equal(augmented(images, Augmentation(), "hw", draws), images)
    assert torch.equal(turned(images), images)
    assert torch.equal(draws.get_state(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_shift_px": -1.0}, "max_shift_px must be at least 0"),
        ({"elastic_px": math.inf}, "elastic_px must be at least 0 and finite, got inf"),
        ({"max_rotation_deg": 200.0}, "max_rotation_deg must be at most 180"),
        ({"max_scale": 1.0}, "max_scale .* below 1, got 1.0"),
    ],
)
def test_augmentations_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**settings)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="less than the images' 4 x 6 pixels, got 4"):
        augmented(torch.rand(2, 4, 6), Augmentation(max_shift_px=4), "hw", generator())
    with pytest.raises(InputError, match=r"a batch \[B, C, H, W\], got the shape \[2, 4, 6\]"):
        augmented(torch.rand(2, 4, 6), EVERYTHING, "chw", generator())


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    height, width = image.shape
    return np.array(
        [
            [
                image[min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)]
                for column in range(width)
            ]
            for row in range(height)
        ]
    )


def test_each_image_is_one_of_its_shifts_and_all_shifts_occur() -> None:
    image = torch.randint(256, (5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = shifted(image.repeat(400, 1, 1), 1, "hw", torch.Generator().manual_seed(1))
    assert images.dtype == torch.uint8
    expected = {moved(image.numpy(), down, right).tobytes() for down in (-1, 0, 1) for right in (-1, 0, 1)}
    assert {row.contiguous().numpy().tobytes() for row in images} == expected


@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_channels_move_together(layout: str) -> None:
    image = torch.arange(5 * 6).reshape(5, 6)
    axis = 0 if layout == "chw" else 2
    colours = torch.stack([image, 100 + image, 200 + image], dim=axis)
    images = shifted(colours.repeat(30, 1, 1, 1), 2, layout, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    first, second, third = images.unbind(axis + 1)
    assert torch.equal(second, first + 100)
    assert torch.equal(third, first + 200)
    assert not torch.equal(first, image.repeat(30, 1, 1))


def test_no_shift_changes_nothing() -> None:
    images = torch.rand(3, 4, 4)
    assert torch.equal(shifted(images, 0, "hw", torch.Generator()), images)


@pytest.mark.parametrize("augmentation", [Augmentation(max_shift_px=2), replace(EVERYTHING, elastic_px=0.0)])
def test_a_gpu_waits_for_no_copy(augmentation: Augmentation) -> None:
    """Smooth noise aside: it is made where its generator is, which ``meta`` cannot have."""
    images = torch.empty((3, 9, 8), dtype=torch.uint8, device="meta")
    with refuse_host_transfers():
        assert augmented(images, augmentation, "hw", generator()).is_meta
