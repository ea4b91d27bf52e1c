from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from torso.envs.datasets.download import RemoteFile, download
from torso.errors import DatasetError, StorageError

CONTENT = np.random.default_rng(0).bytes(300_000)
FILE = RemoteFile(name="data.gz", num_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
DOWNLOAD = f"""
import sys
from pathlib import Path
from torso.envs.datasets.download import RemoteFile, download
file = RemoteFile(name="data.gz", num_bytes={FILE.num_bytes}, sha256="{FILE.sha256}")
download(file, [sys.argv[1]], Path(sys.argv[2]))
"""


def closed_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_whole_and_only_once(mirrors, tmp_path: Path):
    mirror = mirrors({FILE.name: CONTENT})
    folder = tmp_path / "new" / "folder"
    path = download(FILE, [mirror.url + "/"], folder)
    assert path.read_bytes() == CONTENT
    assert visible(folder) == ["data.gz"]
    assert download(FILE, [mirror.url], folder) == path
    assert mirror.requests == [("/data.gz", None)]


def test_a_cut_connection_is_resumed_where_it_stopped(mirrors, tmp_path: Path):
    mirror = mirrors({FILE.name: CONTENT})
    mirror.cuts = [100_000, 50_000]
    assert download(FILE, [mirror.url], tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_killed_download_is_resumed_by_the_next(mirrors, tmp_path: Path):
    mirror = mirrors({FILE.name: CONTENT})
    mirror.stall_after = 200_000
    part = tmp_path / "data.gz.part"
    process = subprocess.Popen([sys.executable, "-c", DOWNLOAD, mirror.url, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size >= 150_000):
            assert process.poll() is None, "the download ended before it was killed"
            assert time.monotonic() < deadline, "the download did not begin"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    received = part.stat().st_size
    assert visible(tmp_path) == ["data.gz.part"]
    mirror.resume.set()
    assert download(FILE, [mirror.url], tmp_path).read_bytes() == CONTENT
    assert mirror.requests == [("/data.gz", None), ("/data.gz", f"bytes={received}-")]
    assert visible(tmp_path) == ["data.gz"]


def test_an_interrupted_download_goes_on_at_another_mirror(mirrors, tmp_path: Path):
    broken, whole = mirrors({FILE.name: CONTENT}), mirrors({FILE.name: CONTENT})
    broken.cuts = [120_000, 0]
    assert download(FILE, [broken.url, whole.url], tmp_path).read_bytes() == CONTENT
    assert whole.requests == [("/data.gz", "bytes=120000-")]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    cuts=st.lists(st.integers(1, 100_000), max_size=4),
    ranges=st.booleans(),
    before=st.integers(0, len(CONTENT) + 10),
    stale=st.booleans(),
)
def test_wherever_it_breaks_the_file_is_right_or_absent(
    mirrors, cuts: list[int], ranges: bool, before: int, stale: bool
):
    mirror = mirrors({FILE.name: CONTENT})
    mirror.cuts, mirror.ranges = cuts, ranges
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data.gz.part").write_bytes(bytes(before) if stale else (CONTENT + bytes(10))[:before])
        try:
            path = download(FILE, [mirror.url], folder)
        except DatasetError:
            assert not (folder / FILE.name).exists()
        else:
            assert path.read_bytes() == CONTENT
            assert visible(folder) == ["data.gz"]


def test_a_mirror_without_ranges_begins_anew(mirrors, tmp_path: Path):
    mirror = mirrors({FILE.name: CONTENT})
    mirror.ranges = False
    (tmp_path / "data.gz.part").write_bytes(CONTENT[:1000])
    assert download(FILE, [mirror.url], tmp_path).read_bytes() == CONTENT
    assert mirror.requests == [("/data.gz", "bytes=1000-")]


def test_a_complete_part_only_needs_its_name(tmp_path: Path):
    (tmp_path / "data.gz.part").write_bytes(CONTENT)
    assert download(FILE, [closed_port()], tmp_path).read_bytes() == CONTENT
    assert visible(tmp_path) == ["data.gz"]


@pytest.mark.parametrize("size", [1000, len(CONTENT), len(CONTENT) + 1])
def test_a_part_of_something_else_costs_one_fresh_attempt(mirrors, tmp_path: Path, size: int):
    mirror = mirrors({FILE.name: CONTENT})
    (tmp_path / "data.gz.part").write_bytes(bytes(size))
    assert download(FILE, [mirror.url], tmp_path).read_bytes() == CONTENT
    assert mirror.requests[-1] == ("/data.gz", None)


def test_wrong_content_is_refused_and_removed(mirrors, tmp_path: Path):
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    mirror = mirrors({FILE.name: wrong})
    with pytest.raises(DatasetError) as caught:
        download(FILE, [mirror.url], tmp_path)
    assert f"{mirror.url}/data.gz" in str(caught.value)
    assert f"SHA-256 must be {FILE.sha256}, got {hashlib.sha256(wrong).hexdigest()}" in str(caught.value)
    assert visible(tmp_path) == []
    assert len(mirror.requests) == 1


def _down(mirror):
    mirror.status = 503


def _missing(mirror):
    mirror.files.clear()


def _wrong(mirror):
    mirror.files["/data.gz"] = CONTENT[::-1]


def _web_page(mirror):
    mirror.files["/data.gz"] = b"<html>Please log in</html>"


def _longer(mirror):
    mirror.files["/data.gz"] = CONTENT + b"!"
    mirror.declare_length = False


def _wrong_range(mirror):
    mirror.content_range = f"bytes 0-9/{len(CONTENT)}"


def _garbage(mirror):
    mirror.garbage = True


@pytest.mark.parametrize("fault", [_down, _missing, _wrong, _web_page, _longer, _wrong_range, _garbage])
def test_a_faulty_mirror_is_passed_over_and_the_next_used(mirrors, tmp_path: Path, fault: Callable):
    first, second = mirrors({FILE.name: CONTENT}), mirrors({FILE.name: CONTENT})
    fault(first)
    (tmp_path / "data.gz.part").write_bytes(CONTENT[:1000])
    assert download(FILE, [first.url, second.url], tmp_path).read_bytes() == CONTENT
    assert first.requests
    assert second.requests
    assert visible(tmp_path) == ["data.gz"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (_down, "HTTP status 503 Service Unavailable"),
        (_missing, "HTTP status 404 Not Found"),
        (_web_page, f"Content-Length must be {len(CONTENT)} bytes, got 26"),
        (_longer, f"the file must have {len(CONTENT)} bytes, got more"),
        (_garbage, "no connection .BadStatusLine"),
    ],
)
def test_the_reason_is_said(mirrors, tmp_path: Path, fault: Callable, reason: str):
    mirror = mirrors({FILE.name: CONTENT})
    fault(mirror)
    with pytest.raises(DatasetError, match=reason):
        download(FILE, [mirror.url], tmp_path)
    assert not (tmp_path / FILE.name).exists()


def test_a_mirror_that_falls_silent_is_given_up(mirrors, tmp_path: Path):
    mirror = mirrors({FILE.name: CONTENT})
    mirror.stall_after = 0
    with pytest.raises(DatasetError, match=r"the connection broke after 0 of 300000 bytes \(TimeoutError"):
        download(FILE, [mirror.url], tmp_path, timeout_s=0.2)


def test_without_a_network_every_mirror_is_named(tmp_path: Path):
    addresses = [closed_port(), "http://[nonsense", "ftp://example.org"]
    with pytest.raises(DatasetError) as caught:
        download(FILE, addresses, tmp_path)
    for address in addresses:
        assert f"{address}/data.gz: " in str(caught.value)
    with pytest.raises(DatasetError, match="no mirror was given"):
        download(FILE, [], tmp_path)


def test_two_at_once_fetch_it_once(mirrors, tmp_path: Path):
    mirror = mirrors({FILE.name: CONTENT})
    mirror.stall_after = 1000
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(download(FILE, [mirror.url], tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    while not mirror.requests:
        time.sleep(0.01)
    mirror.resume.set()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / FILE.name] * 3
    assert paths[0].read_bytes() == CONTENT
    assert len(mirror.requests) == 1


def test_a_folder_that_cannot_be_made(mirrors, tmp_path: Path):
    mirror = mirrors({FILE.name: CONTENT})
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"file/mnist/data\.gz could not be written"):
        download(FILE, [mirror.url], tmp_path / "file" / "mnist")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert mirror.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes, which stands in for a full disk")
def test_a_full_disk_leaves_no_half_file(mirrors, tmp_path: Path):
    mirror = mirrors({FILE.name: CONTENT})
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    command = [sys.executable, "-c", limit + DOWNLOAD, mirror.url, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "StorageError" in ended.stderr.splitlines()[-1]
    assert "data.gz could not be written: File too large" in ended.stderr
    assert not (tmp_path / FILE.name).exists()
    assert download(FILE, [mirror.url], tmp_path).read_bytes() == CONTENT  # once there is room, it goes on
    assert mirror.requests[-1][1] is not None
