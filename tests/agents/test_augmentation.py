"""Shifts, against pixels moved one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torso.agents.augmentation import shifted


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
