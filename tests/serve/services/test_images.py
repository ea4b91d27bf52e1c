"""Image files as inputs, whole, broken and vast."""

from __future__ import annotations

import io
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from torso import errors, pictures
from torso.nets import ImageSpec, Predictor
from torso.nets.prediction import image_inputs
from torso.proto import prediction_pb2 as pb
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve import Client, ServeConfig


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


NOISE = png(np.random.default_rng(0).integers(0, 256, size=(64, 64), dtype=np.uint8))


def png_bomb(side: int, *, ink: bool = False) -> bytes:
    """A small PNG of side x side white pixels, with ``ink`` around a black block, written without ever holding them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    white = b"\0" + b"\xff" * (side // 8)  # 1 bit a pixel
    black = b"\0" + b"\xff" * (side // 32) + bytes(side // 16) + b"\xff" * (side // 32)
    rows = (black if ink and side // 4 <= row < side * 3 // 4 else white for row in range(side))
    data = b"".join([*map(squeeze.compress, rows), squeeze.flush()])
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


def test_the_pixels_of_a_request_are_limited_before_any_is_decoded(
    models: Any, config: Callable[..., ServeConfig], running: Any, refused: Any
) -> None:
    size = png_bomb(128, ink=True)
    settings = config(models.digits, max_request_pixels=3 * 128 * 128)
    with running(settings) as server, grpc.insecure_channel(server.address) as channel:
        stub = PredictionServiceStub(channel)
        assert len(stub.Classify(pb.ClassifyRequest(model="digits", images=pb.Images(encoded=[size] * 3))).rows) == 3
        description = "must be images of at most 49152 pixels in all, got 65536 in the first 4 of 5 images"
        with refused(errors.InvalidRequestError, field="images.encoded", description=description):
            broken = size[: len(size) // 2]  # its header is whole
            stub.Classify(pb.ClassifyRequest(model="digits", images=pb.Images(encoded=[broken] * 5)))


def test_by_default_sixty_large_images_are_too_many(stub: Any, refused: Any) -> None:
    request = pb.ClassifyRequest(model="digits", images=pb.Images(encoded=[png_bomb(4096, ink=True)] * 60))
    with refused(errors.InvalidRequestError, field="images.encoded", description="at most 67108864 pixels in all"):
        stub.Classify(request, timeout=60)


def test_images_of_callers_who_left_are_not_decoded(
    models: Any, config: Callable[..., ServeConfig], running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    began, goes_on = threading.Event(), threading.Event()
    decode = image_inputs.decode_image

    def slow(data: bytes, spec: ImageSpec, *, field: str, max_pixels: int) -> np.ndarray:
        decoded.append(field)
        began.set()
        assert goes_on.wait(30)
        return decode(data, spec, field=field, max_pixels=max_pixels)

    monkeypatch.setattr(image_inputs, "decode_image", slow)
    with running(config(models.digits)) as server, grpc.insecure_channel(server.address) as channel:
        stub = PredictionServiceStub(channel)
        request = pb.ClassifyRequest(model="digits", images=pb.Images(encoded=[png_bomb(64, ink=True)] * 50))
        left = stub.Classify.future(request)
        assert began.wait(30)
        left.cancel()
        with Client(server.address) as client:  # large tensors need no thread that decodes images
            rows = np.zeros((4096, 8, 8), dtype=np.uint8)
            assert client.classify("digits", rows).indices.shape == (4096, 1)
            while server.server.handler.busy:  # the server knows that its caller is gone
                time.sleep(0.01)
            goes_on.set()
            assert client.classify_images("digits", [png_bomb(64, ink=True)]).indices.shape == (1, 1)
            assert len(decoded) <= 2 + 1  # one of the caller that left, at the most two, and the last


def test_images_are_decoded_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = threading.Barrier(2, timeout=30)  # each waits until the other decodes

    def meet(image: Image.Image, *_arguments: Any) -> np.ndarray:
        meeting.wait()
        return np.asarray(image)

    monkeypatch.setattr(pictures, "_pixels", meet)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(pictures.decode_pixels, NOISE) for _ in range(2)]
        assert [one.result(60).shape for one in both] == [(64, 64)] * 2
    with pytest.warns(UserWarning, match="heard"):  # the filters are as before
        warnings.warn("heard", UserWarning, stacklevel=1)


def test_a_model_without_an_image_input_says_so(stub: Any, refused: Any) -> None:
    image = png(np.zeros((8, 8), np.uint8))
    description = "must be tensors of float32 [3], got image files"
    with refused(errors.InvalidRequestError, field="images.encoded", description=description):
        stub.Classify(pb.ClassifyRequest(model="plain", images=pb.Images(encoded=[image])))
