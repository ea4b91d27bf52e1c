"""Attackers with a token of role predict, not the good clients' one. Each goes on until its process ends."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np

from attackers.frame_attackers import CLASSIFY, GZIP
from attackers.messages import empty_inputs, images_request, long_shape, pixel_bomb, unfinished_message
from attackers.session import Pace, Session, Target, attend, connect
from torso.proto import prediction_pb2 as pb
from torso.serve.wire.tensors import array_to_tensor

ACT = b"/torso.v1.PredictionService/Act"
ACT_STREAM = "/torso.v1.PredictionService/ActStream"
INFER = b"/inference.GRPCInferenceService/ModelInfer"
FRAMES = (4, 84, 84)
UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


def pixel_bombs(target: Target) -> None:
    """10 requests a second of 4 or of 100 PNG files of 4096 x 4096 pixels; the caller leaves after 20 ms."""
    bomb = pixel_bomb()
    requests = [images_request("digits", [bomb] * count) for count in (4, 4, 4, 100)]
    messages = [b"\0" + len(request).to_bytes(4, "big") + request for request in requests]
    target.begin()
    pace, session, stream = Pace(10), None, 1
    for message in itertools.cycle(messages):
        pace.wait()
        if session is None or session.gone or stream > 20:  # every tenth leaves with its connection
            if session is not None:
                session.close()
            session, stream = connect(target), 1
        if session is None:
            continue
        target.tally.attempt()
        session.begin_call(CLASSIFY, stream, target.authorization)
        session.send_data(stream, message, ends=True, patience_s=1)
        attend([session], 0.02)
        if stream not in session.ended:
            session.reset(stream)
        stream += 2


def empty_inputs_calls(target: Target) -> None:
    """1 call a second of a few kB that inflates to the largest message: empty inputs, or a shape of millions of 0."""
    entries = target.max_message_bytes - 1000
    bombs = (
        (INFER, empty_inputs("digits", target.max_message_bytes)),
        (CLASSIFY, long_shape("Classify", "digits", entries)),
        (ACT, long_shape("Act", "cartpole", entries)),
        (INFER, long_shape("ModelInfer", "digits", entries)),
    )
    target.begin()
    pace, kept = Pace(1), list[Session]()
    for path, bomb in itertools.cycle(bombs):
        pace.wait()
        target.tally.attempt()
        if (session := connect(target)) is not None:
            session.begin_call(path, 1, target.authorization, GZIP)
            session.send_data(1, bomb, ends=True, patience_s=1)
            kept.append(session)
        while len(kept) > 16:
            kept.pop(0).close()
        attend(kept, 0)


def unfinished(target: Target) -> None:
    """Up to 12 calls that lack the last byte of the largest message, a third without a token; one is begun a second."""
    message = unfinished_message(target.max_message_bytes)
    target.begin()
    pace, held = Pace(1), list[Session]()
    for number in itertools.count():
        pace.wait()
        attend(held, 0)
        for session in [session for session in held if session.gone or 1 in session.ended]:
            session.close()
            held.remove(session)
        if len(held) < 12 and (session := connect(target)) is not None:
            target.tally.attempt()
            session.begin_call(CLASSIFY, 1, *([target.authorization] if number % 3 else []))
            session.send_data(1, message, patience_s=2)
            held.append(session)


def large_requests(target: Target) -> None:
    """8 requests in flight of 4,096 digits, at most 8 a second, and 2 of 16 MiB of frames, at most 1 a second."""
    digits = array_to_tensor(np.zeros((4096, 28, 28), dtype=np.uint8))
    rows = (target.max_message_bytes - 1000) // int(np.prod(FRAMES))
    frames = array_to_tensor(np.zeros((rows, *FRAMES), dtype=np.uint8))
    classify = pb.ClassifyRequest(model="digits", tensor=digits).SerializeToString()
    act = pb.ActRequest(model="frames", observations=frames).SerializeToString()
    target.begin()
    for number in range(10):
        path, request, period_s = (CLASSIFY, classify, 1.0) if number < 8 else (ACT, act, 2.0)
        threading.Thread(target=_ask, args=(target, path.decode(), request, period_s), daemon=True).start()


def _ask(target: Target, path: str, request: bytes, period_s: float) -> None:
    """Send a request again and again; the next one when the last is answered."""
    metadata = (("authorization", f"Bearer {target.token}"),)
    with grpc.insecure_channel(f"127.0.0.1:{target.port}", UNLIMITED) as channel:
        call, pace = channel.unary_unary(path), Pace(1 / period_s)
        while True:
            pace.wait()
            target.tally.attempt()
            try:
                call(request, timeout=30, metadata=metadata)
                target.tally.answer("OK")
            except grpc.RpcError as error:
                target.tally.answer(error.code().name)


def many_episodes(target: Target) -> None:
    """32 streams of 250 episodes of Atari frames, each begins 5 episodes a second and ends none."""
    target.begin()
    for _ in range(32):
        threading.Thread(target=_play, args=(target,), daemon=True).start()


def _play(target: Target) -> None:
    metadata = (("authorization", f"Bearer {target.token}"),)
    with grpc.insecure_channel(f"127.0.0.1:{target.port}", UNLIMITED) as channel:
        stream = channel.stream_stream(
            ACT_STREAM,
            request_serializer=pb.ActStreamRequest.SerializeToString,
            response_deserializer=pb.ActStreamResponse.FromString,
        )
        while True:
            try:
                for response in stream(_episodes(target), metadata=metadata):
                    target.tally.answer("an error on the stream" if response.HasField("error") else "OK")
            except grpc.RpcError as error:
                target.tally.answer(error.code().name)
            time.sleep(0.5)


def _episodes(target: Target) -> Iterator[pb.ActStreamRequest]:
    """Yield the beginnings of 250 episodes, and then nothing for ever."""
    pace = Pace(5)
    observation = array_to_tensor(np.zeros(FRAMES, dtype=np.uint8))
    for number in range(250):
        pace.wait()
        target.tally.attempt()
        yield pb.ActStreamRequest(model="frames", episode=number, start=True, observation=observation)
    while True:
        time.sleep(60)
