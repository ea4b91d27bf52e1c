from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp

from torso.envs.datasets.idx import parse_idx, read_idx
from torso.errors import DatasetError

Encode = Callable[[np.ndarray], bytes]
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
ARRAYS = st.sampled_from(["uint8", "int8", "int16", "int32", "float32", "float64"]).flatmap(
    lambda name: hnp.arrays(np.dtype(name), SHAPES)
)


def test_the_format_by_hand():
    data = bytes.fromhex("0000 0B02 00000002 00000003 0001 0002 0003 FFFF 0100 7FFF")
    np.testing.assert_array_equal(parse_idx(data), np.array([[1, 2, 3], [-1, 256, 32767]], np.int16), strict=True)


@given(array=ARRAYS)
def test_round_trip(encode_idx: Encode, array: np.ndarray):
    result = parse_idx(encode_idx(array))
    np.testing.assert_array_equal(result, array, strict=True)
    assert result.dtype.isnative
    assert not result.flags.writeable


@pytest.mark.parametrize("name", ["plain", "plain.gz", "packed", "packed.gz"])
def test_packed_or_not_is_told_by_content(encode_idx: Encode, tmp_path: Path, name: str):
    data = encode_idx(IMAGES)
    (tmp_path / name).write_bytes(gzip.compress(data) if "packed" in name else data)
    np.testing.assert_array_equal(read_idx(tmp_path / name, shape=(2, 3, 4)), IMAGES, strict=True)


@given(data=st.binary(max_size=200))
def test_any_bytes_give_an_array_or_a_dataset_error(data: bytes):
    _array_or_dataset_error(data)


@given(code=st.integers(0, 255), sizes=st.lists(st.integers(0, 2**32 - 1), max_size=260), rest=st.binary(max_size=40))
def test_any_header_gives_an_array_or_a_dataset_error(code: int, sizes: list[int], rest: bytes):
    header = bytes([0, 0, code, min(len(sizes), 255)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
    _array_or_dataset_error(header + rest)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=ARRAYS, data=st.data())
def test_any_damage_to_a_packed_file_gives_the_array_or_a_dataset_error(
    encode_idx: Encode, tmp_path: Path, array: np.ndarray, data: st.DataObject
):
    packed = bytearray(gzip.compress(encode_idx(array), mtime=0))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(2, len(packed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packed)))
    path = tmp_path / "damaged.gz"
    path.write_bytes(bytes(packed[:cut]) + data.draw(st.binary(max_size=8)))
    try:
        result = read_idx(path)
    except DatasetError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:  # gzip's checksum vouches for the content
        np.testing.assert_array_equal(result, array, strict=True)


def _array_or_dataset_error(data: bytes) -> None:
    try:
        array = parse_idx(data, "the file")
    except DatasetError as error:
        assert str(error).startswith("the file must ")  # noqa: PT017
    else:
        assert array.size > 0
        assert len(data) == 4 + 4 * array.ndim + array.nbytes


DAMAGE = {
    "empty": (lambda data: b"", "must be IDX .* got no bytes"),
    "bad magic": (lambda data: b"\x01" + data[1:], "must be IDX .first bytes 00 00. or gzip .1f 8b., got 01 00 08 03"),
    "a web page": (lambda data: b"<html>not found</html>", "got 3c 68 74 6d"),
    "data type": (lambda data: data[:2] + b"\x0a" + data[3:], "data type code .*0x08 uint8.* got 0x0a"),
    "no dimensions": (lambda data: data[:3] + b"\x00" + data[4:], "must have 1 to 8 dimensions, got 0"),
    "many dimensions": (lambda data: data[:3] + b"\xff" + data[4:], "must have 1 to 8 dimensions, got 255"),
    "short header": (lambda data: data[:10], "must have a header of 16 bytes, got 10: truncated"),
    "empty dimension": (
        lambda data: data[:4] + bytes(4) + data[8:],
        "must have at least one value, got 0 x 3 x 4 in its header",
    ),
    "truncated": (lambda data: data[:-1], "must have 24 bytes of values .2 x 3 x 4 uint8., got 23: truncated"),
    "lying header": (
        lambda data: data[:4] + b"\xff" * 12 + data[16:],
        r"must have 79228162458924105385300197375 bytes of values .* got 24: truncated",
    ),
    "trailing": (lambda data: data + b"!", "must have 24 bytes of values .* got trailing bytes"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(encode_idx: Encode, tmp_path: Path, kind: str, packed: bool):
    damage, expected = DAMAGE[kind]
    data = damage(encode_idx(IMAGES))
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DatasetError, match=expected) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: packed[:-9], id="cut in the data"),
        pytest.param(lambda packed: packed[:-3], id="cut in the checksum"),
        pytest.param(lambda packed: packed[:-8] + bytes(8), id="wrong checksum"),
        pytest.param(lambda packed: packed[:2] + b"\x07" + packed[3:], id="unknown method"),
        pytest.param(lambda packed: packed + b"more", id="trailing bytes"),
    ],
)
def test_damaged_gzip(encode_idx: Encode, tmp_path: Path, damage: Callable[[bytes], bytes]):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(encode_idx(IMAGES))))
    with pytest.raises(DatasetError, match="damaged gzip data") as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_expected_shape_and_hash(encode_idx: Encode, tmp_path: Path):
    path = tmp_path / "images"
    data = encode_idx(IMAGES)
    path.write_bytes(data)
    right = hashlib.sha256(data).hexdigest()
    np.testing.assert_array_equal(read_idx(path, shape=(2, 3, 4), sha256=right), IMAGES)
    with pytest.raises(DatasetError, match="must have 3 x 3 x 4 values, got 2 x 3 x 4 in its header"):
        read_idx(path, shape=(3, 3, 4))
    with pytest.raises(DatasetError, match=f"must have SHA-256 {'0' * 64} .*got {right}"):
        read_idx(path, sha256="0" * 64)


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"nowhere cannot be read: No such file"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="cannot be read: Is a directory"):
        read_idx(tmp_path)
