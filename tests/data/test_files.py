from __future__ import annotations

import os
from pathlib import Path

import pytest

from w2vbert_asr.data.files import atomic_dir, atomic_write, require_regular, sha256
from w2vbert_asr.errors import DataError


def test_sha256_of_a_known_string(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_replaces_at_the_end_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    for text in ("é\r\n", "second\n"):
        with atomic_write(target) as handle:
            handle.write(text)
            handle.flush()
            assert not target.exists() or target.read_bytes() != text.encode()
        assert target.read_bytes() == text.encode()
    assert os.listdir(target.parent) == ["file.txt"]


def test_failed_write_keeps_the_old_contents(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(target, binary=True) as handle:
        handle.write(b"new")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_write_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as handle:
        handle.write("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for name in ("first", "second"):
        with atomic_dir(target) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / name).write_text(name)
    assert os.listdir(target / "sub") == ["second"]
    assert os.listdir(tmp_path) == ["out"]


def test_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_dir(target) as folder:
        (folder / "a").write_text("a")
    with pytest.raises(RuntimeError), atomic_dir(target) as folder:
        (folder / "b").write_text("b")
        raise RuntimeError
    assert os.listdir(target) == ["a"]
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").write_text("half")
    (tmp_path / ".out.old").mkdir()  # killed between the two renames: this is the only whole copy
    (tmp_path / ".out.old" / "whole").write_text("whole")
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "out") as folder:
        assert os.listdir(folder) == []
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["whole"]


def test_folder_over_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="is a file"), atomic_dir(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "a file"


def test_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "link").symlink_to("file")
    assert require_regular(tmp_path / "link").st_size == 5
    for path, reason in ((tmp_path, "a folder"), (tmp_path / "none", "No such file"), (Path("/dev/zero"), "a device")):
        with pytest.raises(DataError, match=reason):
            require_regular(path)
    with pytest.raises(DataError, match="null"):
        require_regular(Path("a\0b"))
