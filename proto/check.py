"""Lint the .proto files, and check them for breaking changes against the released ones.

``python proto/check.py`` runs buf for both, by the rules in buf.yaml, and exits 1 where something is wrong.
``python proto/check.py --release`` writes ``released.binpb``: later changes are compared with it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from generate import HERE, PACKAGE, protoc  # type: ignore[import-not-found]  # a script beside this one

RELEASED = HERE / "released.binpb"
RULES = HERE / "buf.yaml"


def write_descriptors(folder: Path, target: Path, *, source: bool) -> None:
    """Compile the .proto files of a folder into a descriptor set, with or without comments and line numbers."""
    options = ["--include_imports", *(["--include_source_info"] if source else []), f"--descriptor_set_out={target}"]
    sources = sorted(f"{PACKAGE}/{path.name}" for path in folder.glob("*.proto"))
    protoc(f"-I{PACKAGE}={folder}", *options, *sources)


def check(folder: Path = HERE) -> int:
    """Lint a folder's .proto files and compare them with the released ones; return the exit status."""
    buf = shutil.which("buf", path=sysconfig.get_path("scripts")) or "buf"
    with tempfile.TemporaryDirectory() as scratch:
        now = Path(scratch) / "now.binpb"
        write_descriptors(folder, now, source=True)
        checks = (["lint", now], ["breaking", now, "--against", RELEASED])
        return max(subprocess.run([buf, *args, "--config", RULES], check=False).returncode for args in checks) and 1


def main() -> int:
    """Check or release; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--release", action="store_true", help="release the present files: later changes are compared with them"
    )
    if parser.parse_args().release:
        write_descriptors(HERE, RELEASED, source=False)
        return 0
    return check()


if __name__ == "__main__":
    sys.exit(main())
