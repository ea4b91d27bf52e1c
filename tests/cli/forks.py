"""Fork server: imports what training needs once, then forks ``torso`` commands quickly.

Reads lines of JSON, ``[log, argument, ...]``; prints the process id of each command, and its exit code at its end.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from torso.cli import main

for module in (
    "torso.cli.commands.train",
    "torso.envs.games.atari",
    "torso.envs.games.minatar",
    "torch._dynamo",
    "onnxscript",
):
    import_module(module)


def run_and_exit(log: str, arguments: list[str]) -> None:
    """Run a command in this process, which ends with it; its output goes to the log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os._exit(main(arguments))


for line in sys.stdin:
    log, *arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        run_and_exit(log, arguments)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
