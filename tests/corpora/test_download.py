"""Downloads from a server on the loopback that can break off, lie and forget ranges."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from w2vbert_asr.corpora.download import LIBRISPEECH, Archive, download_librispeech, fetch
from w2vbert_asr.errors import ConfigError, DataError, ResourceError


@dataclass
class Site:
    """What the server does; `requests` are the Range headers that it saw."""

    data: bytes = b""
    url: str = ""
    content_type: str = "application/x-gzip"
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)  # bytes of the answer after which the connection ends
    codes: list[int] = field(default_factory=list)  # answered before anything else
    requests: list[str | None] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site(data=b"\x1f\x8b" + os.urandom(300_000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append(asked)
            if state.codes:
                self.send_error(state.codes.pop(0))
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.ranges else 0
            if start and start >= len(state.data):
                self.send_error(416)
                return
            body = state.data[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", state.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_after.pop(0)] if state.break_after else body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_whole_at_once(site: Site, tmp_path: Path) -> None:
    fetch(site.url, tmp_path / "new" / "a.tar.gz", digest(site.data))
    assert (tmp_path / "new" / "a.tar.gz").read_bytes() == site.data
    assert os.listdir(tmp_path / "new") == ["a.tar.gz"]
    fetch(site.url, tmp_path / "new" / "a.tar.gz", digest(site.data))
    assert site.requests == [None]


def test_k03_broken_off_and_resumed(site: Site, tmp_path: Path) -> None:
    site.break_after = [120_000, 0, 50_000]
    fetch(site.url, tmp_path / "a", digest(site.data), pause=0.0)
    assert (tmp_path / "a").read_bytes() == site.data
    assert site.requests == [None, "bytes=120000-", "bytes=120000-", "bytes=170000-"]


def test_k03_part_of_an_earlier_run_is_used(site: Site, tmp_path: Path) -> None:
    site.break_after = [40_000] * 2
    with pytest.raises(ResourceError, match="the same command goes on"):
        fetch(site.url, tmp_path / "a", digest(site.data), attempts=2, pause=0.0)
    assert os.listdir(tmp_path) == ["a.part"]
    assert (tmp_path / "a.part").read_bytes() == site.data[:80_000]
    fetch(site.url, tmp_path / "a", digest(site.data))
    assert (tmp_path / "a").read_bytes() == site.data


def test_k03_server_that_knows_no_ranges_starts_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.break_after = [100_000]
    fetch(site.url, tmp_path / "a", digest(site.data), pause=0.0)
    assert (tmp_path / "a").read_bytes() == site.data


@pytest.mark.parametrize("part", [b"\x1f\x8b" + bytes(1000), b"\x1f\x8b" + bytes(400_000)])
def test_k03_part_of_another_file_is_fetched_anew(site: Site, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "a.part").write_bytes(part)
    fetch(site.url, tmp_path / "a", digest(site.data))
    assert (tmp_path / "a").read_bytes() == site.data


def test_k03_wrong_digest_is_never_taken(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"SHA-256 is {digest(site.data)}, expected {digest(b'')}"):
        fetch(site.url, tmp_path / "a", digest(b""))
    assert os.listdir(tmp_path) == ["a.part"]
    assert len(site.requests) == 2


@pytest.mark.parametrize("kept", [b"", b"\x1f\x8b" + bytes(1000)])
def test_k03_web_page_with_200(site: Site, tmp_path: Path, kept: bytes) -> None:
    good = site.data
    for content_type in ("text/html; charset=utf-8", "application/x-gzip"):
        (tmp_path / "a.part").write_bytes(kept)
        site.data, site.content_type, site.ranges = b"<html>log in</html>" * 100, content_type, False
        with pytest.raises(DataError, match=r"not a \.tar\.gz"):
            fetch(site.url, tmp_path / "a", digest(good), pause=0.0)
        assert (tmp_path / "a.part").read_bytes() == kept
        assert not (tmp_path / "a").exists()


def test_server_errors(site: Site, tmp_path: Path) -> None:
    site.codes = [503, 500]
    fetch(site.url, tmp_path / "a", digest(site.data), pause=0.0)
    site.codes = [404]
    with pytest.raises(DataError, match="404"):
        fetch(site.url, tmp_path / "b", None, pause=0.0)
    with pytest.raises(ResourceError, match="Connection refused"):
        fetch("http://127.0.0.1:9/x", tmp_path / "c", None, attempts=2, pause=0.0)
    with pytest.raises(ConfigError, match="http"):
        fetch((tmp_path / "a").as_uri(), tmp_path / "d", None)


def librispeech(part: str, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    names = {
        f"LibriSpeech/{part}/84/1/84-1-0000.flac": os.urandom(2000),
        "LibriSpeech/SPEAKERS.TXT": b"84 | F\n",
        **more,
    }
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_librispeech_part(site: Site, tmp_path: Path) -> None:
    site.data = librispeech("dev-clean")
    archives = {"dev-clean": Archive(path="12/dev-clean.tar.gz", sha256=digest(site.data))}
    for _ in range(2):  # the second time it is there
        download_librispeech(("dev-clean",), tmp_path, site.url, archives)
        assert sorted(os.listdir(tmp_path / "LibriSpeech")) == ["SPEAKERS.TXT", "dev-clean"]
        assert (tmp_path / "LibriSpeech/dev-clean/84/1/84-1-0000.flac").stat().st_size == 2000
        assert os.listdir(tmp_path) == ["LibriSpeech"]
    assert len(site.requests) == 1


@pytest.mark.parametrize("problem", ["evil", "other part"])
def test_librispeech_part_is_never_there_by_half(site: Site, tmp_path: Path, problem: str) -> None:
    site.data = librispeech("dev-clean", **{"../../evil": b"x"}) if problem == "evil" else librispeech("test-clean")
    archives = {"dev-clean": Archive(path="12/dev-clean.tar.gz", sha256=digest(site.data))}
    with pytest.raises(DataError, match=r"leads out|has no LibriSpeech/dev-clean"):
        download_librispeech(("dev-clean",), tmp_path / "in", site.url, archives)
    assert os.listdir(tmp_path / "in" / "LibriSpeech") == []
    assert os.listdir(tmp_path) == ["in"]


def test_parts_have_names() -> None:
    with pytest.raises(ConfigError, match=r"dev-cleen; parts are dev-clean, "):
        download_librispeech(("dev-cleen",), Path("nowhere"))
    with pytest.raises(ConfigError, match="no parts named"):
        download_librispeech((), Path("nowhere"))
    assert all(archive.sha256 is None or len(archive.sha256) == 64 for archive in LIBRISPEECH.values())
    assert sum(archive.sha256 is not None for archive in LIBRISPEECH.values()) == 7
