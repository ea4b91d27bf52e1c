"""Messages and frames that are small to send and were meant to be large to read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable

from PIL import Image

from torso.proto import oip_pb2
from torso.proto import prediction_pb2 as pb

CHUNK = 1 << 20  # items that are compressed at a time
FORGED = "2026-01-01 00:00:00,000 CRITICAL torso.serve: forged by a caller"


def pixel_bomb(side: int = 4096) -> bytes:
    """Make a PNG file of one bit a pixel: about 2 kB for 4096 x 4096."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def images_request(model: str, images: Iterable[bytes]) -> bytes:
    """Make a ClassifyRequest of image files."""
    return pb.ClassifyRequest(model=model, images=pb.Images(encoded=images)).SerializeToString()


def varint(number: int) -> bytes:
    """Encode a whole number as protobuf does."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def tag(field: int, size: int) -> bytes:
    """Encode the beginning of a field of so many bytes."""
    return varint(field << 3 | 2) + varint(size)


def repeated(item: bytes, count: int) -> Iterable[bytes]:
    """Yield an item so many times, in large pieces."""
    for start in range(0, count, CHUNK):
        yield item * min(CHUNK, count - start)


def zipped_message(head: bytes, item: bytes, count: int) -> bytes:
    """Make a gRPC message, compressed, of a head and so many equal items."""
    zipper = zlib.compressobj(9, wbits=31)
    body = zipper.compress(head) + b"".join(map(zipper.compress, repeated(item, count))) + zipper.flush()
    return b"\1" + struct.pack(">I", len(body)) + body


def empty_inputs(model: str, size: int) -> bytes:
    """Make a ModelInferRequest of ``size`` bytes that are empty ``inputs``, two bytes each, compressed."""
    head = oip_pb2.ModelInferRequest(model_name=model).SerializeToString()
    return zipped_message(head, tag(oip_pb2.ModelInferRequest.INPUTS_FIELD_NUMBER, 0), (size - len(head)) // 2)


def long_shape(method: str, model: str, entries: int) -> bytes:
    """Make a compressed request whose tensor has a shape of so many zeros and no data.

    method: Classify, Act or ModelInfer.
    """
    if method == "ModelInfer":
        message = oip_pb2.ModelInferRequest(model_name=model)
        shape = oip_pb2.ModelInferRequest.InferInputTensor.SHAPE_FIELD_NUMBER
        tensor = oip_pb2.ModelInferRequest.INPUTS_FIELD_NUMBER
    elif method == "Classify":
        message = pb.ClassifyRequest(model=model)
        shape, tensor = pb.Tensor.SHAPE_FIELD_NUMBER, pb.ClassifyRequest.TENSOR_FIELD_NUMBER
    else:
        message = pb.ActRequest(model=model)
        shape, tensor = pb.Tensor.SHAPE_FIELD_NUMBER, pb.ActRequest.OBSERVATIONS_FIELD_NUMBER
    inner = tag(shape, entries)
    head = message.SerializeToString() + tag(tensor, len(inner) + entries) + inner
    return zipped_message(head, b"\0", entries)


def health_bomb(size: int) -> bytes:
    """Make a compressed HealthCheckRequest of a name of so many bytes."""
    return zipped_message(tag(1, size), b"a", size)


def unfinished_message(size: int) -> bytes:
    """Make a gRPC message of so many bytes, but for the last one."""
    return b"\0" + struct.pack(">I", size) + bytes(size - 1)


def forged_debug() -> bytes:
    """Make the text of a GOAWAY frame that would be a line of its own in a log."""
    return struct.pack(">II", 0, 0) + f"\n{FORGED}\n".encode()
