"""``torso bench-serve``: how much a server answers, and how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from torso.cli.models import read_token
from torso.cli.output import result, say
from torso.cli.parsing import Flag
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.serve import ModelInfo
    from torso.serve.load_test.generator import Target
    from torso.serve.load_test.loads import ClosedLoop, LoadResult, OpenLoop, Timing

IN_FLIGHT = (1, 4, 16)


@tyro.conf.configure(tyro.conf.DisallowNone)
@dataclass(frozen=True, kw_only=True)
class BenchServeOptions:
    """Load a server with made-up inputs, and print latency, throughput, goodput and errors at each load.

    A closed loop (--in-flight) keeps that many requests under way; an open one (--rate) sends at its rate whatever the
    server does, and counts a latency from when the request was meant to be sent. Give either or both.
    """

    address: str = "127.0.0.1:8500"
    """HOST:PORT or unix:PATH of a torso server."""
    model: str | None = None
    """The name of a served model; None: the only one there is."""
    in_flight: tuple[int, ...] = ()
    """Closed loops, one after the other: requests under way at any time. With neither these nor rates: 1 4 16."""
    rate: tuple[float, ...] = ()
    """Open loops, one after the other: requests a second."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    """How open loops space their requests: as independent users would, or evenly."""
    rows: int = 1
    """Rows of each request."""
    protocol: Literal["torso", "v2"] = "torso"
    """Ask through torso's own service, or through the Open Inference Protocol."""
    connections: int = 2
    """Connections that share the requests."""
    duration_s: float = 10.0
    """Seconds that each load is measured."""
    warmup_s: float = 1.0
    """Seconds of each load before they count."""
    deadline_s: float = 1.0
    """Each request's deadline, in seconds; goodput counts the answers within it."""
    seed: int = 0
    """What inputs and random arrivals are drawn with."""
    echo: Flag = False
    """Also load a bare gRPC echo on this machine with the same bytes: the most that can be measured here."""
    plot: Path | None = None
    """A PNG to draw latency against load into."""
    token_file: Path | None = None
    """A file that holds the token to show to the server."""
    tls: Flag = False
    """Encrypt, and trust the certificates that this system trusts."""
    tls_ca: Path | None = None
    """Encrypt, and trust the certificates in this PEM file."""
    tls_cert: Path | None = None
    """This side's own certificate, PEM, for a server that asks for one; goes with --tls-key."""
    tls_key: Path | None = None
    """The certificate's private key, PEM."""
    json: Flag = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        if self.plot is not None and self.plot.suffix.lower() != ".png":
            raise ConfigError(f"--plot must name a file that ends in .png, got {self.plot}")
        if self.connections < 1:
            raise ConfigError(f"--connections must be at least 1, got {self.connections}")


def run(options: BenchServeOptions) -> int:
    """Load, and print a line for each load."""
    from torso.serve.client.pool import Endpoint
    from torso.serve.load_test.generator import Target
    from torso.serve.load_test.loads import Timing
    from torso.serve.load_test.requests import method, serialised

    timing = Timing(duration_s=options.duration_s, warmup_s=options.warmup_s, deadline_s=options.deadline_s)
    loads = _loads(options)
    token = None if options.token_file is None else read_token(options.token_file)
    secrets = {name: getattr(options, name) for name in ("tls", "tls_ca", "tls_cert", "tls_key")}
    info = _describe(options, token, secrets)
    target = Target(
        endpoint=Endpoint(options.address, token, **secrets),
        method=method(info, options.protocol),
        requests=serialised(info, options.protocol, rows=options.rows, seed=options.seed),
        rows=options.rows,
        connections=options.connections,
    )
    results, echoes = _measure(target, loads, timing, echo=options.echo)
    figures = {
        "model": info.name,
        "version": info.version,
        "backend": info.backend,
        "address": options.address,
        "protocol": options.protocol,
        "connections": options.connections,
        "request_bytes": len(target.requests[0]),
        "loads": [each.to_json() for each in results],
        **({"echo": [each.to_json() for each in echoes]} if echoes else {}),
    }
    text = table(results, echoes)
    if options.plot is not None:
        from torso.serve.load_test.plot import plot_load

        rows = f"{options.rows} row{'s' if options.rows > 1 else ''} a request"
        figures["plot"] = str(plot_load(results, options.plot, f"{info.name} ({info.backend}), {rows}"))
        text += f"\nplot: {options.plot}"
    result(figures, text, as_json=options.json)
    return 0


def _loads(options: BenchServeOptions) -> list[ClosedLoop | OpenLoop]:
    from torso.serve.load_test.loads import ClosedLoop, OpenLoop

    in_flight = options.in_flight or (() if options.rate else IN_FLIGHT)
    return [
        *(ClosedLoop(in_flight=number) for number in in_flight),
        *(OpenLoop(rate=rate, arrivals=options.arrivals, seed=options.seed) for rate in options.rate),
    ]


def _describe(options: BenchServeOptions, token: str | None, secrets: dict[str, Any]) -> ModelInfo:
    from torso.serve import Client

    with Client(options.address, token, **secrets) as client:
        if options.model is not None:
            return client.get_model(options.model)
        names = [model.name for model in client.list_models()]
        if len(names) != 1:
            raise ConfigError(f"--model is needed: {options.address} serves {', '.join(names) or 'none'}")
        return client.get_model(names[0])


def _measure(
    target: Target, loads: Sequence[ClosedLoop | OpenLoop], timing: Timing, *, echo: bool
) -> tuple[list[LoadResult], list[LoadResult]]:
    """Put one load after the other on the server, each, if asked for, right before the same on an echo."""
    from torso.serve.client.pool import Endpoint
    from torso.serve.load_test.echo import METHOD, bare_echo
    from torso.serve.load_test.generator import run_load
    from torso.serve.load_test.loads import ClosedLoop

    results, echoes = [], []
    with bare_echo() if echo else nullcontext() as echo_address:
        for load in loads:
            what = f"{load.in_flight} in flight" if isinstance(load, ClosedLoop) else f"{load.rate:g} requests/s"
            say(f"{what}: {timing.warmup_s + timing.duration_s:g} s")
            results.append(run_load(target, load, timing))
            if echo_address is not None:
                bare = replace(target, endpoint=Endpoint(echo_address), method=METHOD)
                echoes.append(run_load(bare, load, timing))
    return results, echoes


def table(results: Sequence[LoadResult], echoes: Sequence[LoadResult] = ()) -> str:
    """The results for people, in columns; below, what they should know about them."""
    header = ["load", "answers/s", "in time/s", "rows/s", "p50 ms", "p90", "p99", "p99.9", "errors"]
    rows = [header, *(_row(each) for each in results), *(_row(each, "echo ") for each in echoes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, len(header) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *_remarks(results, echoes)])


def _row(each: LoadResult, name: str = "") -> list[str]:
    load = f"{each.in_flight} in flight" if each.in_flight is not None else f"{each.offered:,.0f}/s offered"
    latencies = [_milliseconds(each.latency_ms.get(percent)) for percent in ("p50", "p90", "p99", "p99.9")]
    errors = ", ".join(f"{count:,} {status}" for status, count in each.errors.items()) or "none"
    return [
        name + load,
        *(f"{figure:,.0f}" for figure in (each.throughput, each.goodput, each.rows_per_s)),
        *latencies,
        errors,
    ]


def _remarks(results: Sequence[LoadResult], echoes: Sequence[LoadResult]) -> Iterator[str]:
    from torso.serve.load_test.loads import LATE_MS

    for each, bare in zip(results, echoes, strict=False):
        if each.in_flight is not None and bare.throughput:
            yield f"{each.in_flight} in flight: {each.throughput / bare.throughput:.0%} of a bare echo's answers/s"
    for each in results:
        if each.late_ms and each.late_ms["p99"] > LATE_MS:
            yield (
                f"{each.offered:,.0f}/s: requests left up to {each.late_ms['p99']:.0f} ms late (p99), which their "
                "latencies include: the load generator, or the machine, is at its limit"
            )


def _milliseconds(value: float | None) -> str:
    return (
        "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
    )
