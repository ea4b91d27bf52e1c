"""torso's server beside a bare gRPC echo, nvidia-pytriton and MLServer: two models, one run, metrics on.

    python benchmarks/serving_vs_peers.py --pytriton-python PYTRITON/bin/python --mlserver MLSERVER/bin/mlserver
        [--seconds 6] [--repeats 3]

Every side serves the same model.onnx with ONNX Runtime on one thread and answers the same V2 requests, sent by the load
generator of `torso bench-serve` over several connections; server and generator share the machine's cores. The echo
decodes a V2 request, encodes a V2 answer of the same size, and computes nothing. Sides take turns, repeat by repeat;
figures are medians over the repeats.

The peers live in virtual environments of their own:

    /usr/bin/python3 -m venv PYTRITON && PYTRITON/bin/pip install nvidia-pytriton==0.7.0 onnxruntime
    python -m venv MLSERVER && MLSERVER/bin/pip install mlserver==1.7.1 onnxruntime
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import Report
from serving_sides import INFER, Sides, Subject, make_subjects, running, wait_for_file

from torso.serve.backends.onnx_backend import OnnxBackend
from torso.serve.client.pool import Endpoint
from torso.serve.load_test.generator import Target, run_load
from torso.serve.load_test.loads import ClosedLoop, LoadResult, OpenLoop, Timing

CONNECTIONS = 4
BATCH = 64
SLOW_MS = 5.0  # a request's compute in the overload test
DEADLINE_S = 0.1  # and its deadline
OVERLOADS = (0.5, 0.9, 1.5, 3.0)  # rates, in the server's capacity

# Serves a model, each of whose requests takes 5 ms.
SLOW_SERVER = """
import sys, time
from pathlib import Path
from torso.serve import ServeConfig, serve

class Slow:
    name = "slow"
    def __init__(self, backend):
        self.backend = backend
    def run(self, inputs):
        time.sleep(len(inputs) * float(sys.argv[3]) / 1000)
        return self.backend.run(inputs)

config = ServeConfig(models=(sys.argv[1],), port=0, port_file=Path(sys.argv[2]), ops_port=0, drain_s=0)
serve(config, lambda name, backend: Slow(backend))
"""


def target(address: str, subject: Subject, rows: int) -> Target:
    """The target of a load."""
    return Target(
        endpoint=Endpoint(address),
        method=INFER,
        requests=subject.requests(rows),
        rows=rows,
        connections=CONNECTIONS,
    )


def bare(subject: Subject, rows: int, seconds: float) -> float:
    """Median seconds of a forward without a server."""
    backend = OnnxBackend(subject.onnx, threads=1)
    inputs = np.ascontiguousarray(subject.rows(rows))
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        backend.run(inputs)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(subject: Subject, sides: Sides, seconds: float, repeats: int) -> dict[str, Any]:
    """All sides, in turns; the figures of each repeat."""
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    timing = Timing(duration_s=seconds, warmup_s=1.0, deadline_s=10.0)
    for _ in range(repeats):
        for side in sides.names:
            with sides.serve(side, subject) as address:
                one, batch = target(address, subject, 1), target(address, subject, BATCH)
                figures[side]["rps_16"].append(checked(run_load(one, ClosedLoop(in_flight=16), timing)).throughput)
                alone = checked(run_load(one, ClosedLoop(in_flight=1), timing))
                figures[side]["p50_us_1"].append(alone.latency_ms["p50"] * 1000)
                rows = checked(run_load(batch, ClosedLoop(in_flight=4), timing)).rows_per_s
                figures[side]["rows_64"].append(rows)
        figures["forward"]["p50_us_1"].append(bare(subject, 1, 1.0) * 1e6)
        figures["forward"]["rows_64"].append(BATCH / bare(subject, BATCH, 1.0))
    return {side: dict(values) for side, values in figures.items()}


def checked(result: LoadResult) -> LoadResult:
    """A result of which nothing failed."""
    if result.errors:
        raise SystemExit(f"requests failed: {result.errors}")
    return result


def tell(report: Report, subject: Subject, figures: dict[str, Any]) -> None:
    """Write the table of one model, and what was to be reached."""
    median = {side: {name: statistics.median(v) for name, v in values.items()} for side, values in figures.items()}
    torso, echo, forward = median["torso"], median["echo"], median["forward"]
    report.say(f"## {subject.title}")
    report.say()
    header = ["side", "16 in flight, requests/s", "torso is times that", "1 in flight, p50 us", "64 rows, rows/s"]
    rows = []
    for side in (name for name in median if name != "forward"):
        value = median[side]
        spread = f"{min(figures[side]['rps_16']):,.0f} to {max(figures[side]['rps_16']):,.0f}"
        times = f"{torso['rps_16'] / value['rps_16']:.2f}"
        rows.append(
            [side, f"{value['rps_16']:,.0f} ({spread})", times, f"{value['p50_us_1']:.0f}", f"{value['rows_64']:,.0f}"]
        )
    rows.append(["forward alone", "", "", f"{forward['p50_us_1']:.0f}", f"{forward['rows_64']:,.0f}"])
    report.table(header, rows)
    added_us = torso["p50_us_1"] - echo["p50_us_1"] - forward["p50_us_1"]
    both = 1 / (1 / echo["rows_64"] + 1 / forward["rows_64"])
    report.say(f"- 16 in flight: {torso['rps_16'] / echo['rps_16']:.0%} of the echo.")
    report.say(f"- 1 in flight: {added_us:+.0f} us beyond the echo's and a bare forward's p50 together.")
    report.say(f"- 64 rows: {torso['rows_64'] / both:.0%} of 1 / (1/echo + 1/forward), which is {both:,.0f} rows/s.")
    report.say()


def overload(subject: Subject, folder: Path, seconds: float) -> dict[str, Any]:
    """A model of 5 ms a request: what it can hold, and what becomes of more."""
    port_file, log = folder / "slow-port", folder / "slow.log"
    command = [sys.executable, "-c", SLOW_SERVER, f"{subject.name}={subject.directory}", str(port_file), str(SLOW_MS)]
    with running(command, log) as process:
        slow = target(f"127.0.0.1:{wait_for_file(port_file, process, log)}", subject, 1)
        timing = Timing(duration_s=seconds, warmup_s=2.0, deadline_s=DEADLINE_S)
        capacity = checked(run_load(slow, ClosedLoop(in_flight=8), timing)).throughput
        loads = {}
        for times in OVERLOADS:
            loads[times] = run_load(slow, OpenLoop(rate=times * capacity), timing)
    return {"capacity": capacity, "loads": {times: load.to_json() for times, load in loads.items()}}


def tell_overload(report: Report, figures: dict[str, Any]) -> None:
    """Write what an overloaded server did."""
    report.say(f"## More than it can hold: {SLOW_MS:g} ms a request, deadline {DEADLINE_S * 1000:g} ms, open loop")
    report.say()
    capacity = figures["capacity"]
    rows = []
    for times, load in figures["loads"].items():
        latency, refusal = load["latency_ms"], load["refusal_ms"]
        rows.append(
            [
                f"{times:g} times {capacity:.0f}/s",
                f"{load['goodput']:.0f}",
                f"{load['goodput'] / capacity:.0%}",
                f"{latency.get('p50', float('nan')):.0f}, {latency.get('p99', float('nan')):.0f}",
                f"{refusal['p50']:.1f}, {refusal['p99']:.1f}" if refusal else "",
                ", ".join(f"{count:,} {status}" for status, count in load["errors"].items()),
            ]
        )
    header = ["offered", "goodput/s", "of its peak", "answers p50, p99 ms", "refusals p50, p99 ms", "refused"]
    report.table(header, rows)


def main() -> None:
    """Run all sides, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytriton-python")
    parser.add_argument("--mlserver")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="serving_vs_peers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(arguments.name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sides = Sides(folder, arguments.pytriton_python, arguments.mlserver)
        subjects = make_subjects(folder)
        for subject in subjects:
            figures = measure(subject, sides, arguments.seconds, arguments.repeats)
            report.data[subject.name] = figures
            tell(report, subject, figures)
        report.data["overload"] = overload(subjects[0], folder, arguments.seconds)
        tell_overload(report, report.data["overload"])
    report.write()


if __name__ == "__main__":
    main()
