"""Generate the Python modules of every .proto in this folder, or check that they are up to date.

``python proto/generate.py`` writes ``*_pb2.py``, ``*_pb2.pyi`` and ``*_pb2_grpc.py`` beside the sources;
``python proto/generate.py --check`` writes nothing and exits 1 when a committed module is not what protoc generates.

Modules run with the grpcio and protobuf of the grpcio-tools that generated them and with later ones. So the oldest
that torso supports generates them; pyproject.toml's ranges of both begin there. That grpcio-tools asks for a protobuf
below 7, and protoc, a library in it, needs nothing else: it is installed alone, into a folder below ``build/``, when
it is first needed. Where that fails, such as without a network, the exit status is 2 and the command to run is printed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import google.rpc

HERE = Path(__file__).resolve().parent
PACKAGE = "torso/proto"  # the package that the modules are imported from: torso.proto.prediction_pb2
IMPORTS = Path(google.rpc.__path__[0]).parents[1]  # the folder of google/rpc/status.proto
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")
GRPCIO_TOOLS = "1.76.0"  # of protobuf 6.31.1
TOOLS = HERE.parent / "build" / f"grpcio-tools-{GRPCIO_TOOLS}-{sys.implementation.cache_tag}"


def install_tools() -> None:
    """Install grpcio-tools into its folder, which appears whole or not at all; exit 2 where that fails."""
    if TOOLS.is_dir():
        return
    TOOLS.parent.mkdir(exist_ok=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1"]
    install += ["--no-deps", "--only-binary=:all:", f"grpcio-tools=={GRPCIO_TOOLS}", "--target"]
    with tempfile.TemporaryDirectory(dir=TOOLS.parent) as scratch:
        fresh = Path(scratch) / TOOLS.name
        if subprocess.run([*install, fresh], check=False).returncode:
            command = shlex.join([*install, str(TOOLS)])
            sys.stderr.write(f"grpcio-tools {GRPCIO_TOOLS} must be in {TOOLS}, got no such folder; do `{command}`\n")
            raise SystemExit(2)
        try:
            fresh.rename(TOOLS)
        except OSError:
            if not TOOLS.is_dir():  # another process was first
                raise


def protoc(*arguments: str) -> None:
    """Run protoc on the arguments, with the .proto files of google.rpc to import."""
    install_tools()
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments, f"-I{IMPORTS}"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(TOOLS)}, check=True)


def generate(directory: Path) -> dict[str, bytes]:
    """Run protoc into ``directory`` and return the modules that it wrote, by file name."""
    outputs = [f"--{kind}_out={directory}" for kind in ("python", "pyi", "grpc_python")]
    sources = sorted(f"{PACKAGE}/{path.name}" for path in HERE.glob("*.proto"))
    protoc(f"-I{PACKAGE}={HERE}", *outputs, *sources)
    return {path.name: path.read_bytes() for path in (directory / PACKAGE).iterdir()}


def committed() -> dict[str, bytes]:
    """Return the generated modules in this folder, by file name."""
    return {path.name: path.read_bytes() for pattern in GENERATED for path in HERE.glob(pattern)}


def main() -> int:
    """Generate or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a module is out of date")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as directory:
        fresh = generate(Path(directory))
    old = committed()
    stale = sorted(name for name in fresh.keys() | old.keys() if fresh.get(name) != old.get(name))
    if check:
        for name in stale:
            sys.stdout.write(f"proto/{name} is out of date: run `python proto/generate.py`\n")
        return 1 if stale else 0
    for name in stale:
        if name in fresh:
            (HERE / name).write_bytes(fresh[name])
        else:
            (HERE / name).unlink()
        sys.stdout.write(f"proto/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
