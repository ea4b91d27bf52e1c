"""Decode the IDX format of MNIST's files: a header with the shape, then the values; plain or gzipped.

Layout, all big-endian: two zero bytes, a data type code, the number of dimensions, each dimension as an unsigned 32-bit
integer, then the values in C order (http://yann.lecun.com/exdb/mnist/, "The IDX file format").
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from torso.errors import DatasetError

DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
MAX_DIMENSIONS = 8
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


def read_idx(path: Path, *, shape: tuple[int, ...] | None = None, sha256: str | None = None) -> np.ndarray[Any, Any]:
    """Read an IDX file, gzipped or not (told apart by its first bytes, not by its name), as a read-only array.

    shape: when given, a header with another shape is refused before the values are read.
    sha256: when given, the hash that the file, decompressed, must have.
    Raises ``DatasetError`` naming the file, what was expected and what it got.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if not zipped:
                return _parse(file, str(path), shape, sha256)
            with gzip.GzipFile(fileobj=file) as stream:
                return _parse(stream, str(path), shape, sha256)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: damaged gzip data ({error}); delete the file and download it again") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error


def parse_idx(data: bytes, name: str = "IDX data") -> np.ndarray[Any, Any]:
    """Decode an uncompressed IDX file to an array; errors call it ``name``. Raises ``DatasetError``."""
    return _parse(io.BytesIO(data), name, None, None)


def _parse(
    stream: IO[bytes] | gzip.GzipFile, name: str, shape: tuple[int, ...] | None, sha256: str | None
) -> np.ndarray[Any, Any]:
    magic = _read(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DatasetError(
            f"{name} must be IDX (first bytes 00 00) or gzip (1f 8b), got {magic.hex(' ') or 'no bytes'}"
        )
    code, num_dimensions = magic[2], magic[3]
    if code not in DTYPES:
        known = ", ".join(f"{known:#04x} {dtype.name}" for known, dtype in DTYPES.items())
        raise DatasetError(f"{name} must have a data type code of IDX ({known}), got {code:#04x}")
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise DatasetError(f"{name} must have 1 to {MAX_DIMENSIONS} dimensions, got {num_dimensions}")
    header = _read(stream, 4 * num_dimensions)
    if len(header) < 4 * num_dimensions:
        raise DatasetError(
            f"{name} must have a header of {4 + 4 * num_dimensions} bytes, got {4 + len(header)}: truncated"
        )
    found = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    if shape is not None and found != shape:
        raise DatasetError(f"{name} must have {_format_shape(shape)} values, got {_format_shape(found)} in its header")
    if 0 in found:
        raise DatasetError(f"{name} must have at least one value, got {_format_shape(found)} in its header")
    dtype = DTYPES[code]
    num_bytes = math.prod(found) * dtype.itemsize
    values = _read(stream, num_bytes + 1)  # one more: reading to the end also verifies gzip's checksum
    if len(values) < num_bytes:
        raise DatasetError(
            f"{name} must have {num_bytes} bytes of values ({_format_shape(found)} {dtype.name}), got {len(values)}: "
            "truncated"
        )
    if len(values) > num_bytes:
        raise DatasetError(
            f"{name} must have {num_bytes} bytes of values ({_format_shape(found)} {dtype.name}), got trailing bytes"
        )
    if sha256 is not None:
        _check_hash(name, sha256, magic, header, values)
    array = np.frombuffer(values, dtype).reshape(found)
    array = array.astype(dtype.newbyteorder("="), copy=False)
    array.setflags(write=False)
    return array


def _read(stream: IO[bytes] | gzip.GzipFile, num_bytes: int) -> bytearray:
    """Read up to ``num_bytes`` in chunks: a header with a false size must not allocate what it claims."""
    data = bytearray()
    while len(data) < num_bytes:
        chunk = stream.read(min(_CHUNK_BYTES, num_bytes - len(data)))
        if not chunk:
            break
        data += chunk
    return data


def _check_hash(name: str, expected: str, *parts: bytearray) -> None:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    if digest.hexdigest() != expected:
        raise DatasetError(
            f"{name} must have SHA-256 {expected} (decompressed), got {digest.hexdigest()}; it is well-formed, but not "
            "the right file: another data set's of the same name?"
        )


def _format_shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
