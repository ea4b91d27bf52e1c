"""``torso bench-serve``: load test a server, and report latency, throughput and goodput."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torso.cli.arguments.options import Sections
from torso.cli.models import read_token
from torso.cli.terminal.output import print_result, print_status
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.serve import ModelInfo
    from torso.serve.load_test.generator import Target
    from torso.serve.load_test.loads import ClosedLoop, LoadResult, OpenLoop, Timing

IN_FLIGHT = (1, 4, 16)


@dataclass(frozen=True, kw_only=True)
class BenchServeOptions:
    """Load test a server with random inputs, and print latency, throughput, goodput and errors at each load.

    A closed loop (--in-flight) keeps that many requests in flight; an open loop (--rate) sends at a fixed rate whatever
    the server does, and measures latency from the time at which a request was scheduled. Give either or both.
    """

    sections: ClassVar[Sections] = {
        "load": ("in_flight", "rate", "arrivals", "rows", "connections", "protocol", "echo"),
        "timing": ("duration_s", "warmup_s", "deadline_s"),
        "security": ("token_file", "tls", "tls_ca", "tls_cert", "tls_key"),
    }
    """Headings of the help, and the options below each."""

    address: str = "127.0.0.1:8500"
    """HOST:PORT or unix:PATH of a torso server."""
    model: str | None = None
    """The name of a served model; None: the only served model."""
    in_flight: tuple[int, ...] = ()
    """Closed loops, one after the other: concurrent requests; None: 1 4 16, where no --rate is given."""
    rate: tuple[float, ...] = ()
    """Open loops, one after the other: requests a second."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    """Arrival process of open loops: Poisson, as from independent users, or evenly spaced."""
    rows: int = 1
    """Rows in each request (its batch size)."""
    protocol: Literal["torso", "v2"] = "torso"
    """Send requests to torso's own service, or to the Open Inference Protocol's (v2)."""
    connections: int = 2
    """Connections that share the requests."""
    duration_s: float = 10.0
    """Seconds for which each load is measured."""
    warmup_s: float = 1.0
    """Warm-up of each load, in seconds, which is not measured."""
    deadline_s: float = 1.0
    """Each request's deadline, in seconds; goodput counts the responses within it."""
    seed: int = 0
    """Seed of the random inputs and arrival times."""
    echo: bool = False
    """Also load test a bare local gRPC echo server with the same bytes: the upper bound on this machine."""
    plot: Path | None = None
    """A .png file for a plot of latency against load."""
    token_file: Path | None = None
    """A file that holds the token for authentication."""
    tls: bool = False
    """Use TLS, and trust the system's certificates."""
    tls_ca: Path | None = None
    """Use TLS, and trust the certificates in this PEM file."""
    tls_cert: Path | None = None
    """The client certificate, PEM, for a server that requires one; goes with --tls-key."""
    tls_key: Path | None = None
    """The client certificate's private key, PEM."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        if self.plot is not None and self.plot.suffix.lower() != ".png":
            raise ConfigError(f"--plot must be a file name that ends in .png, got {self.plot}")
        if self.connections < 1:
            raise ConfigError(f"--connections must be at least 1, got {self.connections}")


def run(options: BenchServeOptions) -> int:
    """Run the loads, and print a line for each."""
    from torso.serve.client.pool import Endpoint
    from torso.serve.load_test.generator import Target
    from torso.serve.load_test.loads import Timing
    from torso.serve.load_test.requests import method, serialised

    timing = Timing(duration_s=options.duration_s, warmup_s=options.warmup_s, deadline_s=options.deadline_s)
    loads = _loads(options)
    token = None if options.token_file is None else read_token(options.token_file)
    tls_options = {name: getattr(options, name) for name in ("tls", "tls_ca", "tls_cert", "tls_key")}
    info = _find_model(options, token, tls_options)
    target = Target(
        endpoint=Endpoint(options.address, token, **tls_options),
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
    text = load_test_table(results, echoes)
    if options.plot is not None:
        from torso.serve.load_test.plot import plot_load

        rows = f"{options.rows} row{'s' if options.rows > 1 else ''} a request"
        figures["plot"] = str(plot_load(results, options.plot, f"{info.name} ({info.backend}), {rows}"))
        text += f"\nplot: {options.plot}"
    print_result(figures, text, as_json=options.json)
    return 0


def _loads(options: BenchServeOptions) -> list[ClosedLoop | OpenLoop]:
    from torso.serve.load_test.loads import ClosedLoop, OpenLoop

    in_flight = options.in_flight or (() if options.rate else IN_FLIGHT)
    return [
        *(ClosedLoop(in_flight=number) for number in in_flight),
        *(OpenLoop(rate=rate, arrivals=options.arrivals, seed=options.seed) for rate in options.rate),
    ]


def _find_model(options: BenchServeOptions, token: str | None, tls_options: dict[str, Any]) -> ModelInfo:
    from torso.serve import Client

    with Client(options.address, token, **tls_options) as client:
        if options.model is not None:
            return client.get_model(options.model)
        names = [model.name for model in client.list_models()]
        if len(names) != 1:
            served = ", ".join(names) or "none"
            raise ConfigError(f"--model must be one of the served models, got none; {options.address} serves {served}")
        return client.get_model(names[0])


def _measure(
    target: Target, loads: Sequence[ClosedLoop | OpenLoop], timing: Timing, *, echo: bool
) -> tuple[list[LoadResult], list[LoadResult]]:
    """Run the loads one after the other; with ``echo``, each followed by the same load on an echo server."""
    from torso.serve.client.pool import Endpoint
    from torso.serve.load_test.echo import METHOD, bare_echo
    from torso.serve.load_test.generator import run_load
    from torso.serve.load_test.loads import ClosedLoop

    results, echoes = [], []
    with bare_echo() if echo else nullcontext() as echo_address:
        for load in loads:
            name = f"{load.in_flight} in flight" if isinstance(load, ClosedLoop) else f"{load.rate:g} requests/s"
            print_status(f"{name}: {timing.warmup_s + timing.duration_s:g} s")
            results.append(run_load(target, load, timing))
            if echo_address is not None:
                bare = replace(target, endpoint=Endpoint(echo_address), method=METHOD)
                echoes.append(run_load(bare, load, timing))
    return results, echoes


def load_test_table(results: Sequence[LoadResult], echoes: Sequence[LoadResult] = ()) -> str:
    """Format the results as a table, followed by notes on how to read them."""
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
    return "\n".join([*lines, *_notes(results, echoes)])


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


def _notes(results: Sequence[LoadResult], echoes: Sequence[LoadResult]) -> Iterator[str]:
    from torso.serve.load_test.loads import LATE_MS

    for each, bare in zip(results, echoes, strict=False):
        if each.in_flight is not None and bare.throughput:
            yield f"{each.in_flight} in flight: {each.throughput / bare.throughput:.0%} of a bare echo's answers/s"
    for each in results:
        if each.late_ms and each.late_ms["p99"] > LATE_MS:
            yield (
                f"{each.offered:,.0f}/s: requests were sent up to {each.late_ms['p99']:.0f} ms late (p99), which is "
                "included in their latencies: the load generator, or the machine, is at its limit"
            )


def _milliseconds(value: float | None) -> str:
    return (
        "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
    )
