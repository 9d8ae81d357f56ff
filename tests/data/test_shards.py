"""Tar shards: standard archives, the same bytes each time, read to the sample, refused where they are damaged."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.speech import write_audio
from w2vbert_asr.data import shards
from w2vbert_asr.data.audio import AudioError, audio_info, read_audio, read_blocks
from w2vbert_asr.data.inspection import Piece, inspect
from w2vbert_asr.data.member import file_of, open_recording, split
from w2vbert_asr.data.shards import Recording, Shard, plan, write_shard
from w2vbert_asr.errors import DataError

FORMATS = {
    "pcm.wav": {"subtype": "PCM_16"},
    "float.wav": {"subtype": "FLOAT"},
    "a.aiff": {},
    "a.sph": {"format": "NIST"},
    "a.flac": {},
    "vorbis.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {"format": "MP3"},
}


def pack(path: Path, files: dict[str, Path]) -> dict[str, Path]:
    """Write a shard of some recordings; rec_id -> how each is now named."""
    recordings = tuple(Recording(rec_id=rec_id, audio=audio, duration=1.0) for rec_id, audio in files.items())
    result = write_shard(Shard(path=path, recordings=recordings))
    assert result.name == path.name and result.dropped == []
    return {rec_id: Path(f"{path}:{offset}") for rec_id, offset in result.written}


def offset_of(place: Path) -> int:
    return int(str(place).rpartition(":")[2])


def make(folder: Path) -> dict[str, Path]:
    """A recording of each format, of odd lengths."""
    files = {}
    for number, (name, options) in enumerate(FORMATS.items()):
        write_audio(folder / name, 0.5 + 0.0371 * number, seed=number, **options)
        files[f"rec-{number}"] = folder / name
    return files


def test_every_format_reads_as_from_its_own_file(tmp_path: Path) -> None:
    files = make(tmp_path / "audio")
    for rec_id, path in pack(tmp_path / "shard-000001.tar", files).items():
        own = files[rec_id]
        assert audio_info(path) == audio_info(own)
        np.testing.assert_array_equal(read_audio(path), read_audio(own))
        np.testing.assert_array_equal(read_audio(path, start=0.1, end=0.3), read_audio(own, start=0.1, end=0.3))
        count = audio_info(own).num_samples
        first, second = (inspect(Piece(path=one, start=0.2, num_samples=None)) for one in (path, own))
        assert first == second and not first.reason
        with pytest.raises(AudioError, match=rf"shard-000001\.tar:\d+: frames_mismatch: {count + 1} samples declared"):
            list(read_blocks(path, num_samples=count + 1))


def test_they_are_standard_archives_with_the_bytes_as_they_were(tmp_path: Path) -> None:
    files = make(tmp_path / "audio")
    files["\u00e9" * 120] = files["rec-0"]  # a long id that is not ASCII
    places = pack(tmp_path / "a.tar", files)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert [member.pax_headers["comment"] for member in members] == list(files)
        for member, audio in zip(members, files.values(), strict=True):
            unpacked = tar.extractfile(member)
            assert unpacked is not None and unpacked.read() == audio.read_bytes()
            assert Path(member.name).suffix == audio.suffix
        assert [member.offset_data for member in members] == [
            int(str(one).rpartition(":")[2]) for one in places.values()
        ]
    (tmp_path / "out").mkdir()
    done = subprocess.run(["tar", "-xvf", tmp_path / "a.tar", "-C", tmp_path / "out"], capture_output=True, check=True)
    assert done.stderr == b""
    unpacked_files = sorted((tmp_path / "out").iterdir())
    assert [path.read_bytes() for path in unpacked_files] == [path.read_bytes() for path in files.values()]


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    files = make(tmp_path / "audio")
    pack(tmp_path / "a.tar", files)
    for path in files.values():
        os.utime(path, (1e9, 1e9))
        path.chmod(0o600)
    pack(tmp_path / "b.tar", files)
    places = pack(tmp_path / "c.tar", pack(tmp_path / "b.tar", files))  # out of a shard into the next
    content = (tmp_path / "a.tar").read_bytes()
    assert content == (tmp_path / "b.tar").read_bytes() == (tmp_path / "c.tar").read_bytes()
    np.testing.assert_array_equal(read_audio(places["rec-4"]), read_audio(files["rec-4"]))


def test_dealt_until_full(tmp_path: Path) -> None:
    durations = [3.0, 3.0, 5.0, 100.0, 1.0, 2.0]
    recordings = [Recording(rec_id=str(n), audio=tmp_path, duration=one) for n, one in enumerate(durations)]
    dealt = list(plan(recordings, tmp_path, 6.0))
    assert [[one.rec_id for one in shard.recordings] for shard in dealt] == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert [shard.path.name for shard in dealt] == [f"shard-00000{n}.tar" for n in (1, 2, 3)]
    assert list(plan([], tmp_path, 6.0)) == []


def test_names_with_anything_in_them(tmp_path: Path) -> None:
    folder = tmp_path / "a: b.tar" / "caf\u00e9 12:30"
    audio = write_audio(folder / "x.tar y:7.wav")
    assert split(audio) is None and len(read_audio(audio)) == 8000
    for name in ("shard 1:2.tar", "\u65e5.tar", "a.tar:5.tar"):
        place = pack(folder / name, {"rec": audio})["rec"]
        assert split(place) == (folder / name, 1536) and file_of(place) == folder / name
        np.testing.assert_array_equal(read_audio(place), read_audio(audio))
    for name in ("a.tar", "a.tar:", "a.tar:-1", "a.tar:1a", "a.tar:\u0663", ".tar:1", "a.tar:1.wav", "a.tgz:1"):
        assert split(Path(name)) is None


def test_a_member_is_a_file_of_its_own(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5
    (tmp_path / "b").write_bytes(content)
    place = pack(tmp_path / "a.tar", {"x": write_audio(tmp_path / "x.wav"), "b": tmp_path / "b"})["b"]
    rng = np.random.default_rng(0)
    with open_recording(place) as member, io.BytesIO(content) as plain:
        assert member.size == len(content)
        for _ in range(300):
            match int(rng.integers(4)):
                case 0:
                    size = int(rng.integers(-1, 900))
                    assert member.read(size) == plain.read(size)
                case 1:
                    start = int(rng.integers(0, 1500))
                    assert member.seek(start) == plain.seek(start)
                case 2:
                    back = -int(rng.integers(0, 1280))
                    assert member.seek(back, os.SEEK_END) == plain.seek(back, os.SEEK_END)
                case 3:
                    assert member.seek(0, os.SEEK_CUR) == plain.tell() == member.tell()


def test_wrong_offsets(tmp_path: Path) -> None:
    place = pack(tmp_path / "a.tar", make(tmp_path / "audio"))["rec-2"]
    right = offset_of(place)
    for offset in (0, 1, 512, 1024, right - 512, right + 512, right + 1, 10**9, 10**17):
        with pytest.raises(AudioError, match=rf"a\.tar:{offset}: undecodable: no recording begins .*w2vbert shard"):
            read_audio(Path(f"{tmp_path / 'a.tar'}:{offset}"))


def test_cut_short_anywhere(tmp_path: Path) -> None:
    places = pack(
        tmp_path / "whole.tar", {n: write_audio(tmp_path / n, 0.05, seed=len(n)) for n in ("a.wav", "bb.wav")}
    )
    offset = int(str(places["bb.wav"]).rpartition(":")[2])
    content = (tmp_path / "whole.tar").read_bytes()
    size = (tmp_path / "bb.wav").stat().st_size
    for end in [0, offset - 1, offset, offset + 1, offset + size - 1]:
        (tmp_path / "cut.tar").write_bytes(content[:end])
        with pytest.raises(AudioError, match=rf"cut\.tar:{offset}: undecodable: .*w2vbert shard"):
            read_audio(tmp_path / f"cut.tar:{offset}")
    (tmp_path / "cut.tar").write_bytes(content[: offset + size])
    expected, _ = soundfile.read(tmp_path / "bb.wav", dtype="float32")
    np.testing.assert_array_equal(read_audio(tmp_path / f"cut.tar:{offset}"), expected)


def test_a_changed_header_never_gives_other_bytes(tmp_path: Path) -> None:
    place = pack(
        tmp_path / "a.tar", {"a": write_audio(tmp_path / "a.wav", 0.05), "b": write_audio(tmp_path / "b.wav", 0.05)}
    )["a"]
    offset = int(str(place).rpartition(":")[2])
    content = (tmp_path / "a.tar").read_bytes()
    refused = 0
    for byte in range(offset - 512, offset):
        changed = bytearray(content)
        changed[byte] ^= 1
        (tmp_path / "a.tar").write_bytes(changed)
        try:
            with open_recording(place) as member:
                assert member.read() == (tmp_path / "a.wav").read_bytes()
        except DataError:
            refused += 1
    assert refused > 500  # all but the blanks around the checksum


def test_what_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tar: cannot be read"):
        read_audio(tmp_path / "none.tar:1536")
    os.mkfifo(tmp_path / "fifo.tar")
    with pytest.raises(DataError, match=r"fifo\.tar: is a FIFO"):
        read_audio(tmp_path / "fifo.tar:1536")
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"link\.tar:512: .*no plain file"):
        read_audio(tmp_path / "link.tar:512")
    (tmp_path / "words").write_text("no audio")
    with pytest.raises(AudioError, match=r"words\.tar:1536: undecodable"):
        read_audio(pack(tmp_path / "words.tar", {"words": tmp_path / "words"})["words"])


def test_missing_empty_and_large_files_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_BYTES", 20_000)
    files = {"a": write_audio(tmp_path / "a.wav"), "b": tmp_path / "none.wav", "c": tmp_path / "c.wav"}
    files |= {"d": tmp_path, "e": write_audio(tmp_path / "e.wav", 2.0), "f": write_audio(tmp_path / "f.wav", seed=1)}
    files["c"].touch()
    recordings = tuple(Recording(rec_id=rec_id, audio=audio, duration=1.0) for rec_id, audio in files.items())
    result = write_shard(Shard(path=tmp_path / "a.tar", recordings=recordings))
    assert [rec_id for rec_id, _ in result.written] == ["a", "f"]
    reasons = {rec_id: reason for rec_id, reason, _ in result.dropped}
    assert reasons == {"b": "missing", "c": "empty", "d": "missing", "e": "too_large"}
    assert "none.wav" in result.dropped[0][2]
    np.testing.assert_array_equal(read_audio(tmp_path / f"a.tar:{result.written[1][1]}"), read_audio(files["f"]))


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = write_audio(tmp_path / "a.wav")
    header = shards._header

    def shrink(*arguments: object) -> tarfile.TarInfo:
        os.truncate(audio, 100)
        return header(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "_header", shrink)
    with pytest.raises(DataError, match=r"a\.wav: became shorter"):
        pack(tmp_path / "a.tar", {"a": audio})
