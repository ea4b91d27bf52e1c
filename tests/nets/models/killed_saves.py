"""Crash test: saves over a model directory, really killed before each of their file operations in turn.

Run as a script by ``test_crash_safety.py``, in a process of its own because it forks. Prints one JSON object: how many
kills there were, of how many different kinds were the directories they left, and what was wrong with any of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from torso.errors import ModelNotFoundError, TorsoError
from torso.nets import InputSpec, MLPSpec, Network, NetworkSpec, ScalarHeadSpec, build_network, load_model, save_model

torch.set_num_threads(1)
SPEC = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(3,)), head=ScalarHeadSpec(num_actions=2))
FILE_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate")


def network(name: str) -> Network:
    return build_network(SPEC, torch.Generator().manual_seed(ord(name)))


def save(directory: Path, name: str) -> None:
    save_model(directory, network(name), kind="policy", provenance={"name": name}, onnx=False)


def save_and_die(directory: Path, name: str, step: int) -> bool:
    """Save in a process killed before its ``step``-th file operation; return whether the save was complete by then."""
    pid = os.fork()
    if pid == 0:
        left = step
        fsync = os.fsync

        def count(event: str, _arguments: tuple[Any, ...] = ()) -> None:
            nonlocal left
            if event in FILE_OPERATIONS or event == "fsync":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        def counted_fsync(descriptor: int) -> None:
            count("fsync")
            fsync(descriptor)

        os.fsync = counted_fsync
        sys.addaudithook(count)
        save(directory, name)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
    return status == 0


def killed_at_every_step(start: Path, name: str, scratch: Path) -> Iterator[Path]:
    """Yield the directories that killed saves over a copy of ``start`` leave, one for each step."""
    step, complete = 0, False
    while not complete:
        step += 1
        directory = scratch / f"{start.name}-{name}{step}"
        if start.exists():
            shutil.copytree(start, directory)
        complete = save_and_die(directory, name, step)
        yield directory


def what_loads(directory: Path) -> str:
    """Return the name of the model that the directory holds, "" for none."""
    try:
        card, loaded = load_model(directory)
    except ModelNotFoundError:
        return ""
    except TorsoError as error:
        return f"{type(error).__name__}: {error}"
    name = str(card.provenance["name"])
    expected = network(name).state_dict()
    same = all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())
    return name if same else f"{name}, with weights of another"


def kind_of(directory: Path) -> str:
    """Digest a directory's files, without the random part of a temporary file's name."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*")) if directory.exists() else []:
        name = path.name.split(".tmp")[0].rpartition(".")[0] if path.name.endswith(".tmp") else path.name
        digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def main(scratch: Path) -> None:
    wrong: list[str] = []
    kills = 0

    def check(directory: Path, allowed: set[str]) -> str:
        found = what_loads(directory)
        if found not in allowed:
            wrong.append(f"{directory.name} must hold one of {sorted(allowed)}, got {found!r}")
        return found

    def recover(directory: Path) -> None:
        save(directory, "z")
        check(directory, {"z"})
        files = sorted(path.name for path in directory.iterdir())
        if files != ["model.json", "weights.safetensors"]:
            wrong.append(f"{directory.name} keeps {files} after another save")

    save(scratch / "a", "a")
    kinds: dict[str, tuple[Path, str]] = {}
    outcomes: dict[str, set[str]] = {}
    for start, before in ((scratch / "nothing", ""), (scratch / "a", "a")):
        for directory in killed_at_every_step(start, "b", scratch):
            kills += 1
            found = check(directory, {before, "b"})
            outcomes.setdefault(start.name, set()).add(found)
            kinds.setdefault(kind_of(directory), (directory, found))
    for start, before in list(kinds.values()):  # a second save that is killed too
        for directory in killed_at_every_step(start, "c", scratch):
            kills += 1
            check(directory, {before, "c"})
            recover(directory)
    print(
        json.dumps(
            {
                "kills": kills,
                "kinds": len(kinds),
                "outcomes": {k: sorted(v) for k, v in outcomes.items()},
                "wrong": wrong,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
