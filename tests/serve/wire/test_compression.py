"""Inflating of compressed messages."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import InputError, OverloadedError
from torso.proto import oip_pb2, prediction_pb2
from torso.serve.wire.compression import FREE_BYTES, MAX_RATIO, inflate, is_compressed

LIMIT = 1 << 30


@given(st.binary(max_size=5000))
def test_both_formats_round_trip(data: bytes) -> None:
    for compressed in (gzip.compress(data), *(zlib.compress(data, level) for level in (0, 1, 6, 9))):
        assert is_compressed(compressed)
        assert inflate(compressed, LIMIT) == data


def test_no_message_of_torsos_begins_like_a_compressed_one() -> None:
    for file in (prediction_pb2.DESCRIPTOR, oip_pb2.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            assert 15 not in message.fields_by_number
    assert not is_compressed(b"")
    assert not is_compressed(b"\x0a\x01x")
    assert not is_compressed(b"x")


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_bombs_are_refused_without_inflating_them(compress: object) -> None:
    bomb = compress(bytes(64 << 20))  # type: ignore[operator]
    assert len(bomb) < 100_000
    with pytest.raises(InputError, match=f"at most {MAX_RATIO * len(bomb)} bytes, {MAX_RATIO} times its own"):
        inflate(bomb, LIMIT)
    with pytest.raises(OverloadedError, match="inflates to more than 5000 bytes"):
        inflate(gzip.compress(bytes(5001)), 5000)
    assert inflate(gzip.compress(bytes(5000)), 5000) == bytes(5000)
    assert inflate(gzip.compress(bytes(FREE_BYTES)), LIMIT) == bytes(FREE_BYTES)  # any ratio is fine so far


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b", b"\x78\x9c", gzip.compress(b"hello", mtime=0)[:-9], b"\x1f\x8b" + bytes(50)]
)
def test_damaged_ones_are_left_to_the_decoder(data: bytes) -> None:
    assert is_compressed(data)
    assert inflate(data, LIMIT) == data
