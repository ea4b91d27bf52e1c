"""A server under attack: fourteen attackers of different kinds beside eight good clients.

    python benchmarks/siege.py [--seconds 60] [--only NAME ...] [--without NAME ...] [--each] [-- SERVE ARGUMENTS]

Measures, against `torso serve` as a command with tokens and an ops port: the share of good calls that are answered
rightly at the first attempt within 5 s, their latency while it is calm and under siege, the growth of the server's
memory, what it logs, and the time from SIGTERM to its end while the attack goes on. Holds, or ends with exit code 1:

- 99% of the good calls are answered;
- their p99 is less than 5 times the calm one;
- the memory of the server and its workers grows by less than 200 MB;
- SIGTERM is obeyed within drain + finish + 1 s, with exit code 0; the server did not end before;
- no caller wrote a line of the log.

``--each`` lets every attacker try alone, each against a new server. ``--list`` says what they do, and how often: their
own work would otherwise drown what is measured, for they share the machine with the server. They run at a lower
priority (nice 10) than the server and the good clients, whose 200 calls a second begin at fixed times. On a machine of
two cores the attackers' work is in the latency all the same. A server whose memory passes ``--max-mb`` is killed, and
has lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import uvloop
from attackers.besieged import Besieged, besieged, make_models
from attackers.good_clients import GoodClients, Outcomes, probe
from attackers.process import ATTACKERS
from report import RESULTS, Report

WARM_UP_S = 1.0
MIN_SHARE, MAX_RATIO, MAX_GROWTH_MB = 0.99, 5.0, 200.0
SERVED = "served to the end"
EACH = ["attacker alone", "attempts", "the server's answers", "answered", "p99 ratio", "memory growth", "SIGTERM"]
EACH += ["log lines / bytes", "goals missed"]
PROCESS = Path(__file__).parent / "attackers" / "process.py"


class Attack:
    """An attacker's process: ready when it is created, begun and asked for its counts by lines on its stdin."""

    def __init__(self, name: str, server: Besieged, max_message_bytes: int) -> None:
        self.name = name
        numbers = map(str, (server.port, server.ops_port, max_message_bytes))
        self._process = subprocess.Popen(
            [sys.executable, str(PROCESS), name, *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._tell(server.tokens["attacker"])

    def wait_ready(self) -> None:
        """Return once it has prepared what it will send."""
        if self._hear() != "ready\n":
            raise SystemExit(f"{self.name} did not start")

    def begin(self) -> None:
        """Let it attack."""
        self._tell("begin")

    def report(self) -> dict[str, Any]:
        """Return its counts so far. SystemExit where it broke down."""
        self._tell("report")
        counts = json.loads(self._hear())
        if faults := counts.pop("faults"):
            raise SystemExit(f"{self.name} broke down:\n{faults[0]}")
        return {"name": self.name, **counts}

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        return self._process.stdout.readline()


async def measure(clients: GoodClients, server: Besieged, seconds: float) -> tuple[Outcomes, list[float]]:
    """Run the good clients and the probes; return their outcomes and the server's memory, MB."""
    readings: list[float] = []
    weighing = asyncio.ensure_future(server.weigh(readings))
    probes = Outcomes()
    probing = asyncio.ensure_future(probe(server.ops_port, probes, seconds, server.stop))
    outcomes = await clients.run(seconds, server.stop)
    for task in (weighing, probing):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    outcomes.probes = probes.probes
    return outcomes, readings


async def lay_siege(
    names: Sequence[str], models: dict[str, Path], folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure the calm, then the siege by these attackers; return all figures."""
    limit = "--max-message-mib", str(arguments.max_message_mib)
    with besieged(folder, models, [*limit, *arguments.serve_arguments], arguments.max_mb) as server:
        attacks = [Attack(name, server, arguments.max_message_mib << 20) for name in names]
        clients = GoodClients(server.address, server.tokens["good"], models)
        try:
            for attack in attacks:
                await asyncio.to_thread(attack.wait_ready)
            await measure(clients, server, WARM_UP_S)
            calm, before = await measure(clients, server, arguments.calm_s)
            log_start = len(server.log_bytes())
            for attack in attacks:
                attack.begin()
            under_siege, during = await measure(clients, server, arguments.seconds)
            counts = [attack.report() for attack in attacks]
            growth_mb = max(during, default=0.0) - max(before)
            end = await asyncio.to_thread(server.terminate)
        finally:
            for attack in attacks:
                attack.end()
            await clients.close()
        return {
            "attackers": counts,
            "calm": calm.summary(),
            "siege": under_siege.summary(),
            "memory_mb": {"calm": round(max(before), 1), "growth": round(growth_mb, 1)},
            "end": end,
            "log": server.log_figures(log_start),
            "server": server.killed or SERVED,
        }


def judge(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Hold the figures against the goals: what each is, what came, whether it is met."""
    siege, calm, end = figures["siege"], figures["calm"], figures["end"]
    ratio = siege["p99_ms"] / calm["p99_ms"] if siege["p99_ms"] and calm["p99_ms"] else None
    share, growth = siege["answered_share"] or 0.0, figures["memory_mb"]["growth"]
    ended = end["exit_code"] == 0 and end["seconds"] <= end["limit_s"]
    forged = figures["log"]["forged_lines"]
    exit_text = "killed" if end["exit_code"] is None else f"{end['seconds']} s, exit code {end['exit_code']}"
    return {
        "answered": {"goal": f">= {MIN_SHARE:.0%}", "got": f"{share:.2%}", "met": share >= MIN_SHARE},
        "p99 ratio": {
            "goal": f"< {MAX_RATIO:g}",
            "got": "none" if ratio is None else f"{ratio:.2f}",
            "met": ratio is not None and ratio < MAX_RATIO,
        },
        "memory growth": {
            "goal": f"< {MAX_GROWTH_MB:g} MB",
            "got": f"{growth:.0f} MB",
            "met": growth < MAX_GROWTH_MB and figures["server"] == SERVED,
        },
        "SIGTERM": {"goal": f"<= {end['limit_s']:g} s, exit code 0", "got": exit_text, "met": ended},
        "forged log lines": {"goal": "0", "got": str(forged), "met": forged == 0},
    }


def say_latency(report: Report, figures: dict[str, Any]) -> None:
    """Print the good calls' figures, calm and under siege."""
    rows = []
    for phase in ("calm", "siege"):
        got = figures[phase]
        times = [f"{got[key]:.1f} ms" if got[key] is not None else "none" for key in ("p50_ms", "p99_ms", "max_ms")]
        share = "none" if got["answered_share"] is None else f"{got['answered_share']:.2%}"
        readyz = ", ".join(f"{count} x {what}" for what, count in got["readyz"].items())
        rows.append([phase, got["calls"], share, *times, readyz])
    report.table(["good calls", "calls", "answered", "p50", "p99", "most", "/readyz"], rows)
    for why, count in figures["siege"]["not_answered"].items():
        report.say(f"- {count} x {why}")
    report.say()


def say_attackers(report: Report, counts: Sequence[dict[str, Any]]) -> None:
    """Print what each attacker did, and what the server answered."""
    rows = []
    for each in counts:
        rows.append([each["name"], what_it_does(each["name"]), f"{each['attempts']:,}", answers(each)])
    report.table(["attacker", "what it does", "attempts", "the server's answers"], rows)


def answers(counts: dict[str, Any]) -> str:
    """Return what the server answered an attacker, most often first."""
    return ", ".join(f"{count:,} x {what}" for what, count in counts["answers"].items()) or "nothing"


def what_it_does(name: str) -> str:
    """Return an attacker's description."""
    return " ".join((ATTACKERS[name].__doc__ or "").split()).rstrip(".")


def say_siege(report: Report, figures: dict[str, Any]) -> bool:
    """Print one siege; return whether all goals are met."""
    goals = judge(figures)
    report.table(["goal", "limit", "got", ""], [[name, g["goal"], g["got"], verdict(g)] for name, g in goals.items()])
    say_latency(report, figures)
    say_attackers(report, figures["attackers"])
    log = figures["log"]
    report.say(f"The server: {figures['server']}; {log['lines']:,} lines of log, {log['bytes']:,} bytes.")
    report.data |= {"goals": goals, **figures}
    return all(goal["met"] for goal in goals.values())


def verdict(goal: dict[str, Any]) -> str:
    """Return the word for a goal's outcome."""
    return "met" if goal["met"] else "MISSED"


def each_row(report: Report, name: str, figures: dict[str, Any]) -> bool:
    """Print the row of an attacker that was alone; return whether all goals are met."""
    goals, [counts], log = judge(figures), figures["attackers"], figures["log"]
    missed = [goal for goal, outcome in goals.items() if not outcome["met"]]
    cells = [goals[goal]["got"] for goal in ("answered", "p99 ratio", "memory growth", "SIGTERM")]
    logged = f"{log['lines']:,} / {log['bytes']:,}"
    report.row([name, f"{counts['attempts']:,}", answers(counts), *cells, logged, ", ".join(missed) or "none"])
    if figures["server"] != SERVED:
        report.say(f"| | | the server {figures['server']} |")
    report.data[name] = {"goals": goals, **figures}
    return not missed


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of siege (each attacker's with --each)")
    parser.add_argument("--calm-s", type=float, default=12.0, help="seconds of calm before, for comparison")
    parser.add_argument("--only", nargs="+", choices=ATTACKERS, metavar="NAME", default=list(ATTACKERS))
    parser.add_argument("--without", nargs="+", choices=ATTACKERS, metavar="NAME", default=[])
    parser.add_argument("--each", action="store_true", help="every attacker alone, each against a new server")
    parser.add_argument("--list", action="store_true", help="what the attackers do")
    parser.add_argument("--max-message-mib", type=int, default=16, help="the server's largest request")
    parser.add_argument("--max-mb", type=float, default=6000.0, help="memory at which the server is killed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("serve_arguments", nargs="*", metavar="-- SERVE ARGUMENTS", help="more for `torso serve`")
    return parser.parse_args()


def main() -> int:
    """Lay siege, report."""
    arguments = parse()
    if arguments.list:
        for name in ATTACKERS:
            print(f"{name:16}{what_it_does(name)}")
        return 0
    names = [name for name in arguments.only if name not in arguments.without]
    if not names:
        raise SystemExit("no attacker is left; name fewer --without")
    torch.set_num_threads(1)
    report = Report("siege_each" if arguments.each else "siege", arguments.out)
    report.data["load_average"] = os.getloadavg()[0]
    report.say(f"Load of the machine in the minute before: {report.data['load_average']:.2f}")
    report.say()
    with tempfile.TemporaryDirectory() as scratch:
        models = make_models(Path(scratch) / "models")
        if arguments.each:
            report.header(EACH)
            met = True
            for name in names:
                met &= each_row(report, name, uvloop.run(lay_siege([name], models, Path(scratch) / name, arguments)))
        else:
            met = say_siege(report, uvloop.run(lay_siege(names, models, Path(scratch) / "siege", arguments)))
    report.write()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
