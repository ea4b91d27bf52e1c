"""Generate the Python modules of every .proto in this folder, or check that they are up to date.

``python proto/generate.py`` writes ``*_pb2.py``, ``*_pb2.pyi`` and ``*_pb2_grpc.py`` beside the sources;
``python proto/generate.py --check`` writes nothing and exits 1 when a committed module is not what protoc generates.
The modules need at least the grpcio and protobuf that grpcio-tools bundles: pyproject.toml's bounds follow them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import google.rpc

HERE = Path(__file__).resolve().parent
PACKAGE = "torso/proto"  # the package that the modules are imported from: torso.proto.prediction_pb2
IMPORTS = Path(google.rpc.__path__[0]).parents[1]  # the folder of google/rpc/status.proto
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


def generate(directory: Path) -> dict[str, bytes]:
    """Run protoc into ``directory`` and return the modules that it wrote, by file name."""
    sources = sorted(path.name for path in HERE.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}={HERE}", f"-I{IMPORTS}"]
    command += [f"--{kind}_out={directory}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, *(f"{PACKAGE}/{source}" for source in sources)], check=True)
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
