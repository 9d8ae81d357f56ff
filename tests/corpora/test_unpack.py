from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from w2vbert_asr.corpora.unpack import Limits, unpack
from w2vbert_asr.errors import DataError


def make_archive(path: Path, *members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w:gz", format=format) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def member(
    name: str, data: bytes = b"data", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    return info, data


def test_files_and_folders(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    long = "/".join(["x" * 60] * 3) + "/é.flac"
    archive = make_archive(
        tmp_path / "a.tar.gz",
        member(".", b"", tarfile.DIRTYPE),
        member("./sub", b"", tarfile.DIRTYPE),
        member("./sub/a.txt", b"hello"),
        member("sub/empty", b""),
        member(long, b"\0" * 5000),
    )
    unpack(archive, target)
    assert (target / "sub/a.txt").read_bytes() == b"hello"
    assert (target / "sub/empty").read_bytes() == b""
    assert (target / long).read_bytes() == b"\0" * 5000
    assert not os.access(target / "sub/a.txt", os.X_OK)  # modes are not taken over


BAD: dict[str, tuple[Callable[[Path], list[tuple[tarfile.TarInfo, bytes]]], str]] = {
    "dots": (lambda root: [member("../evil")], "leads out"),
    "dots within": (lambda root: [member("a/../../evil")], "leads out"),
    "absolute": (lambda root: [member(str(root / "evil"))], "leads out"),
    "symbolic link": (lambda root: [member("a", b"", tarfile.SYMTYPE, str(root)), member("a/evil")], "neither"),
    "hard link": (lambda root: [member("a", b"", tarfile.LNKTYPE, "/etc/passwd")], "neither"),
    "device": (lambda root: [member("a", b"", tarfile.CHRTYPE)], "neither"),
    "fifo": (lambda root: [member("a", b"", tarfile.FIFOTYPE)], "neither"),
    "sparse": (lambda root: [member("a", b"\0" * 512, tarfile.GNUTYPE_SPARSE)], "neither"),
    "duplicate": (lambda root: [member("a"), member("./a")], "a second time"),
    "file as folder": (lambda root: [member("a"), member("a/b")], "cannot be written"),
    "line break": (lambda root: [member("a\nb")], "odd name"),
    "backslash": (lambda root: [member("..\\evil")], "odd name"),
    "too long": (lambda root: [member("n" * 300)], "cannot be written"),
    "too many": (lambda root: [member(str(i)) for i in range(11)], "more than 10 members"),
    "bomb": (lambda root: [member("zeros", b"\0" * 5_000_000)], "5000000 bytes, more than"),
    "bomb in pieces": (lambda root: [member(str(i), b"\0" * 600_000) for i in range(5)], "bytes, more than"),
}


@pytest.mark.parametrize("name", BAD)
def test_k04_what_no_honest_archive_has_is_refused(tmp_path: Path, name: str) -> None:
    build, reason = BAD[name]
    (tmp_path / "outer" / "target").mkdir(parents=True)
    archive = make_archive(tmp_path / "a.tar.gz", *build(tmp_path / "outer"))
    with pytest.raises(DataError, match=reason):
        unpack(archive, tmp_path / "outer" / "target", Limits(members=10, slack=1_000_000))
    assert os.listdir(tmp_path / "outer") == ["target"]
    assert not list(tmp_path.rglob("evil"))


def test_k04_headers_may_lie_about_ten_gigabytes(tmp_path: Path) -> None:
    """A size that is only claimed, and a bomb hidden in a header, where no member's size counts it."""
    target = tmp_path / "target"
    target.mkdir()
    info = tarfile.TarInfo("claimed")
    info.size = 10 << 30
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf()))
    with pytest.raises(DataError, match="10737418240 bytes"):
        unpack(tmp_path / "a.tar.gz", target)
    comment = {"comment": "\0" * 3_000_000}
    header = tarfile.TarInfo("x")
    header.pax_headers = comment
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.PAX_FORMAT) + b"\0" * 1024))
    with pytest.raises(DataError, match="far more than speech"):
        unpack(tmp_path / "b.tar.gz", target, Limits(slack=1_000_000))
    assert os.listdir(target) == []


def test_damaged_archives(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    whole = make_archive(tmp_path / "a.tar.gz", member("a", os.urandom(5000))).read_bytes()
    flipped = bytearray(whole)
    flipped[2500] ^= 255
    for data in (whole[:3000], bytes(flipped), b"<html>", b"", gzip.compress(os.urandom(5000))):
        (tmp_path / "a.tar.gz").write_bytes(data)
        with pytest.raises(DataError, match=r"damaged|refused"):
            unpack(tmp_path / "a.tar.gz", target)
        for path in target.iterdir():
            path.unlink()
