"""Inflate compressed messages, within bounds.

gRPC's own decompression is off in the server: it inflates whatever comes before anybody can look at it. A message that
begins with gzip's magic bytes is no protobuf message, and one that begins like zlib's, gRPC's ``deflate``, has a field
15, which no message of torso's has; so compressed messages are known by their first bytes.
"""

from __future__ import annotations

import zlib

from torso.errors import InputError, OverloadedError

GZIP = b"\x1f\x8b"
ZLIB = 0x78  # deflate with a window of 32 KiB, which all compressors use
MAX_RATIO = 100  # of inflated to compressed bytes, of messages of more than
FREE_BYTES = 1 << 20


def is_compressed(data: bytes) -> bool:
    """Check whether a message is compressed."""
    return data.startswith(GZIP) or (len(data) > 1 and data[0] == ZLIB and (ZLIB << 8 | data[1]) % 31 == 0)


def inflate(data: bytes, max_bytes: int) -> bytes:
    """Inflate a compressed message; one that cannot be is returned as it is, for whoever decodes it to refuse.

    Raises OverloadedError where it would have more than ``max_bytes``, InputError where it would have more than
    ``MAX_RATIO`` times its own bytes and more than ``FREE_BYTES``.
    """
    most = min(max_bytes, max(FREE_BYTES, MAX_RATIO * len(data)))
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # of either format
    try:
        inflated = stream.decompress(data, most + 1)
    except zlib.error:
        return data
    if len(inflated) > most:
        if most == max_bytes:
            raise OverloadedError(f"the request inflates to more than {max_bytes} bytes, the most that one may have")
        expected = f"a compressed message of at most {most} bytes, {MAX_RATIO} times its own or {FREE_BYTES}"
        raise InputError("request", expected=expected, got=f"more, of {len(data)} compressed bytes")
    return inflated if stream.eof else data
