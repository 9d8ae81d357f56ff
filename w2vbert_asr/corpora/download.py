"""Fetch the archives of a corpus: resumed where they broke off, checked, and unpacked only then.

What has arrived of a file is kept as FILE.part. Nothing is unpacked whose digest is wrong.
"""

from __future__ import annotations

import http.client
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from w2vbert_asr.corpora.unpack import unpack
from w2vbert_asr.data.files import atomic_dir, sha256
from w2vbert_asr.errors import ConfigError, DataError, ResourceError

BASE_URL = "https://www.openslr.org/resources"
ATTEMPTS = 5
_GZIP = b"\x1f\x8b"
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where an archive lies below the base URL, and its SHA-256 where one is published or has been measured."""

    path: str
    sha256: str | None = None


LIBRISPEECH: dict[str, Archive] = {
    "dev-clean": Archive(
        path="12/dev-clean.tar.gz", sha256="76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"
    ),
    "dev-other": Archive(
        path="12/dev-other.tar.gz", sha256="12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"
    ),
    "test-clean": Archive(
        path="12/test-clean.tar.gz", sha256="39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"
    ),
    "test-other": Archive(
        path="12/test-other.tar.gz", sha256="d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"
    ),
    "train-clean-100": Archive(
        path="12/train-clean-100.tar.gz", sha256="d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"
    ),
    "train-clean-360": Archive(
        path="12/train-clean-360.tar.gz", sha256="146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"
    ),
    "train-other-500": Archive(
        path="12/train-other-500.tar.gz", sha256="ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"
    ),
    "dev-clean-2": Archive(path="31/dev-clean-2.tar.gz"),
    "train-clean-5": Archive(path="31/train-clean-5.tar.gz"),
}


def download_librispeech(
    parts: tuple[str, ...], target: Path, base_url: str = BASE_URL, archives: dict[str, Archive] | None = None
) -> None:
    """Fetch and unpack parts into target/LibriSpeech/<part>; parts that are there are left alone.

    ConfigError for an unknown part; DataError and ResourceError as `fetch` and `unpack`.
    """
    archives = archives or LIBRISPEECH
    unknown = [part for part in parts if part not in archives]
    if unknown or not parts:
        raise ConfigError(f"--download: {', '.join(unknown) or 'no parts named'}; parts are {', '.join(archives)}")
    for part in parts:
        folder = target / "LibriSpeech" / part
        if folder.is_dir():
            print(f"{folder}: is there", file=sys.stderr)
            continue
        archive = archives[part]
        file = target / Path(archive.path).name
        fetch(f"{base_url.rstrip('/')}/{archive.path}", file, archive.sha256)
        _unpack_part(file, part, folder)
        file.unlink()


def _unpack_part(file: Path, part: str, folder: Path) -> None:
    """The part appears whole; the corpus's notes (SPEAKERS.TXT, ...) are put beside it."""
    with atomic_dir(folder.parent / f"{part}.unpacked") as temporary:
        unpack(file, temporary)
        if not (temporary / "LibriSpeech" / part).is_dir():
            raise DataError(f"{file}: has no LibriSpeech/{part}; remove it and fetch it again")
    unpacked = folder.parent / f"{part}.unpacked"
    for note in sorted((unpacked / "LibriSpeech").iterdir()):
        if note.is_file():
            note.replace(folder.parent / note.name)
    (unpacked / "LibriSpeech" / part).rename(folder)
    shutil.rmtree(unpacked)


def fetch(url: str, path: Path, digest: str | None, attempts: int = ATTEMPTS, pause: float = 1.0) -> None:
    """Download `url` to `path`, going on from path.part; a broken connection is tried again after a growing pause.

    DataError: the server does not have it, sent a web page instead, or the SHA-256 is wrong twice. ResourceError: the
    network is out of reach, or the disk has no room.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"{url}: not an http or https address")
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _fetch_part(url, part, attempts, pause)
        part.replace(path)
    if digest is None:
        print(f"{path}: SHA-256 {sha256(path)}, none is known to compare it with", file=sys.stderr)
    elif sha256(path) != digest:
        print(f"{path}: wrong SHA-256, fetching it anew", file=sys.stderr)
        path.unlink()
        _fetch_part(url, part, attempts, pause)
        found = sha256(part)
        if found != digest:
            raise DataError(f"{url}: SHA-256 is {found}, expected {digest}; kept as {part}, not unpacked")
        part.replace(path)


def _fetch_part(url: str, part: Path, attempts: int, pause: float) -> None:
    for attempt in range(1, attempts + 1):
        try:
            if _continue(url, part):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing behind what is there: it is whole, or not this file; the digest tells
                return
            if error.code < 500:
                raise DataError(f"{url}: the server answers {error.code} {error.reason}; check the address") from error
            reason = f"the server answers {error.code} {error.reason}"
        except _BROKEN as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        print(f"{url}: {reason} (attempt {attempt} of {attempts})", file=sys.stderr)
        if attempt < attempts:
            time.sleep(pause * 2 ** (attempt - 1))
    raise ResourceError(f"{url}: {reason}; {part} is kept, the same command goes on from there")


def _continue(url: str, part: Path) -> bool:
    """One connection; whether the file is whole afterwards."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as response:
        if response.status != 206:  # from the start, asked or not
            have = 0
        expected = _length(response)
        total = have + expected if expected is not None else None
        head = response.read(1 << 16)
        if response.headers.get_content_type() == "text/html" or (have == 0 and not head.startswith(_GZIP)):
            raise DataError(
                f"{url}: the server sent {response.headers.get_content_type()}, not a .tar.gz; {head[:60]!r}"
            )
        if expected and expected > shutil.disk_usage(part.parent).free:
            raise ResourceError(
                f"{part}: {expected} bytes to come, more than the disk has free; choose another --source"
            )
        bar = tqdm(
            total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
        )
        with open(part, "ab" if have else "wb") as file, bar:
            while head:
                file.write(head)
                bar.update(len(head))
                head = response.read(1 << 20)
    return total is None or part.stat().st_size == total


def _length(response: Any) -> int | None:
    text = response.headers.get("Content-Length")
    return int(text) if text and text.isdecimal() else None
