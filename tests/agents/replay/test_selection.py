"""Rows of tensors, copied whole."""

from __future__ import annotations

import pytest
import torch

from torso.agents.replay.selection import select_rows

INDEX = torch.tensor([4, 0, 4, 2])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int64, torch.float32, torch.bool])
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3, 4)])
def test_rows_are_those_of_indexing(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    items = torch.arange(5 * 24).remainder(7).to(dtype)[: torch.Size(shape).numel()].view(shape)
    rows = select_rows(items, INDEX)
    assert rows.dtype == dtype
    assert rows.tolist() == [items[row].tolist() for row in INDEX.tolist()]
    rows.zero_()
    assert items.any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_keep_their_memory_format(memory_format: torch.memory_format) -> None:
    items = torch.randn(5, 3, 4, 6).to(memory_format=memory_format)
    rows = select_rows(items, INDEX)
    assert rows.is_contiguous(memory_format=memory_format)
    assert torch.equal(rows, items[INDEX])
