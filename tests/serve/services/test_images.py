"""Image files as inputs, whole, broken and vast."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from torso import errors
from torso.nets import Predictor
from torso.proto import prediction_pb2 as pb
from torso.serve import Client


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


NOISE = png(np.random.default_rng(0).integers(0, 256, size=(64, 64), dtype=np.uint8))


def png_bomb(side: int) -> bytes:
    """A small PNG of side x side white pixels, written without ever holding them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    row = b"\0" + b"\xff" * (side // 8)  # 1 bit a pixel
    data = b"".join([*(squeeze.compress(row) for _ in range(side)), squeeze.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_images_are_what_their_pixels_are(models: Any, served: Any) -> None:
    scans = np.random.default_rng(1).integers(0, 256, size=(3, 8, 8), dtype=np.uint8)
    scans[:, [0, -1], :] = scans[:, :, [0, -1]] = 0  # dark ground, as the model knows it
    jpeg = io.BytesIO()
    sheet = np.full((40, 30, 3), 255, dtype=np.uint8)
    sheet[5:30, 10:14] = 0
    Image.fromarray(sheet).save(jpeg, "JPEG")
    images = [*map(png, scans), jpeg.getvalue()]
    predictor = Predictor.load(models.digits)
    with Client(served.address) as client:
        answer = client.classify_images("digits", images, top_k=3)
    local = predictor.classify(predictor.prepare_images(images), top_k=3)
    assert np.array_equal(answer.indices, local.indices)
    assert np.allclose(answer.probabilities, local.probabilities, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "field", "description"),
    [
        ([NOISE, b"GIF89a"], "images.encoded[1]", "must be a PNG or JPEG"),
        ([NOISE[: len(NOISE) // 2]], "images.encoded[0]", "must be a whole PNG or JPEG"),
        ([b""], "images.encoded[0]", "got 0 bytes"),
        ([png(np.full((8, 8), 255, np.uint8))], "images.encoded[0]", "got a blank one"),
        ([], "images.encoded", "got 0 images"),
        ([b""] * 5000, "images.encoded", "must be at most 4096 rows a request, got 5000"),
    ],
)
def test_images_that_cannot_be_read_are_an_invalid_argument(
    stub: Any, refused: Any, images: list[bytes], field: str, description: str
) -> None:
    with refused(errors.InvalidRequestError, field=field, description=description):
        stub.Classify(pb.ClassifyRequest(model="digits", images=pb.Images(encoded=images)))


def test_a_png_bomb_is_refused_by_its_header(stub: Any, refused: Any) -> None:
    bomb = png_bomb(32_000)  # 10^9 pixels
    assert len(bomb) < 200_000
    with refused(errors.InvalidRequestError, field="images.encoded[0]", description="decoded pixels"):
        stub.Classify(pb.ClassifyRequest(model="digits", images=pb.Images(encoded=[bomb])))


def test_a_model_without_an_image_input_says_so(stub: Any, refused: Any) -> None:
    image = png(np.zeros((8, 8), np.uint8))
    description = "must be tensors of float32 [3], got image files"
    with refused(errors.InvalidRequestError, field="images.encoded", description=description):
        stub.Classify(pb.ClassifyRequest(model="plain", images=pb.Images(encoded=[image])))
