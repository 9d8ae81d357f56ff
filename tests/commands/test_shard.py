"""`w2vbert shard`: a sharded data directory is the same data to every verb; repetition, damage and interruption."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.data.speech import write_audio
from w2vbert_asr import cli
from w2vbert_asr.commands import fbank
from w2vbert_asr.commands.shard import Config, run
from w2vbert_asr.data import kaldi_dir, shards
from w2vbert_asr.data.archive import read_feats
from w2vbert_asr.data.audio import AudioError
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.data.kaldi_dir import DataDir, Segment
from w2vbert_asr.errors import ConfigError, DataError

NUM = 12


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve recordings of two speakers under odd names, in FLAC and WAV, cut into two utterances each."""
    recordings, pieces = {}, {}
    for number in range(NUM):
        name = f"caf\u00e9 {number}: x.{'flac' if number % 2 else 'wav'}"
        write_audio(tmp_path / "raw audio" / name, 0.6 + 0.02 * number, seed=number)
        recordings[f"rec{number:02d}"] = f"../raw audio/{name}"
        for start in (0.0, 0.3):
            utt_id = f"s{number % 2}-rec{number:02d}-{start}"
            pieces[utt_id] = Segment(rec_id=f"rec{number:02d}", start=start, end=start + 0.25)
    kaldi_dir.write(
        tmp_path / "data",
        wav_scp={**recordings, "unused": "../raw audio/none.wav"},
        segments=pieces,
        utt2spk={utt_id: utt_id[:2] for utt_id in pieces},
        utt2dur=dict.fromkeys(pieces, 0.25),
        text={utt_id: f"SAYS {utt_id}" for utt_id in pieces},
        num_samples=dict.fromkeys(pieces, 4000),
        extra={"spk2gender": "s0 f\ns1 m\n"},
    )
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pack(data: Path, out: Path, **options: float) -> dict[str, object]:
    return run(Config(data=data, out=out, **{"shard_seconds": 1.6, "num_jobs": 1, **options}))  # type: ignore[arg-type]


def tables_of(data: DataDir) -> list[object]:
    return [data.segments, data.text, data.utt2spk, data.utt2dur, data.num_samples]


def feats_of(folder: Path) -> dict[str, torch.Tensor]:
    table = kaldi_dir.read(folder).feats_scp or {}
    return {utt_id: torch.from_numpy(read_feats(place, folder, utt_id)) for utt_id, place in table.items()}


def test_every_verb_reads_it_alike(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = pack(data, tmp_path / "packed")
    before, after = kaldi_dir.read(data), kaldi_dir.read(tmp_path / "packed")
    assert (summary["recordings"], summary["utterances"], summary["shards"]) == (NUM, 2 * NUM, 3)
    assert tables_of(after) == tables_of(before) and after.spk2utt == before.spk2utt
    assert list(after.wav_scp) == [f"rec{number:02d}" for number in range(NUM)]
    assert after.wav_scp["rec00"] == "shard-000001.tar:1536" and (tmp_path / "packed" / "spk2gender").is_file()
    (tmp_path / "packed").rename(tmp_path / "moved")
    shutil.move(tmp_path / "raw audio", tmp_path / "away")
    packed = tmp_path / "moved"
    assert cli.main(["validate", str(packed), "--strict", "--num-jobs", "2"]) == 0
    assert cli.main(["fix", str(packed), "--out", str(tmp_path / "fixed"), "--num-jobs", "1"]) == 0
    assert tables_of(kaldi_dir.read(tmp_path / "fixed")) == tables_of(before)
    shutil.move(tmp_path / "away", tmp_path / "raw audio")
    for name, folder in (("plain", data), ("from-shards", packed), ("from-fixed", tmp_path / "fixed")):
        fbank.run(fbank.Config(data=folder, out=tmp_path / name, stats=True, num_jobs=1))
    plain = feats_of(tmp_path / "plain")
    reader = FeatureReader([packed], online=True)
    for number, (utt_id, feats) in enumerate(plain.items()):
        assert reader.utt_ids[number] == utt_id and torch.equal(reader.load(number), feats)
    for name in ("from-shards", "from-fixed"):
        found = feats_of(tmp_path / name)
        assert found.keys() == plain.keys() and all(torch.equal(found[utt_id], plain[utt_id]) for utt_id in plain)
        again = FeatureReader([tmp_path / name], online=True)  # the paths in a dump folder are absolute
        assert torch.equal(again.load(3), reader.load(3))
    line = ["fbank", str(packed), "--out", str(tmp_path / "from-shards"), "--stats", "--num-jobs", "1"]
    assert cli.main(line) == 0 and "whole, made before" in capsys.readouterr().out


def test_the_number_of_processes_and_packing_again_change_nothing(data: Path, tmp_path: Path) -> None:
    for num_jobs in (1, 2):
        pack(data, tmp_path / f"packed{num_jobs}", num_jobs=num_jobs)
    pack(tmp_path / "packed1", tmp_path / "packed3")
    first, second, third = (contents(tmp_path / f"packed{number}") for number in (1, 2, 3))
    for name in first.keys() - {"source.json"}:
        assert first[name] == second[name] == third[name], name
    pack(tmp_path / "packed1", tmp_path / "one", shard_seconds=1e6)
    assert [name for name in contents(tmp_path / "one") if name.endswith(".tar")] == ["shard-000001.tar"]
    with pytest.raises(DataError, match=r"rec00.*offset 1536"):
        (tmp_path / "packed1" / "shard-000001.tar").write_bytes(first["shard-000001.tar"][:1600])
        pack(tmp_path / "packed1", tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_again_it_says_so_and_repairs_what_is_damaged(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packed"
    first = pack(data, out)
    clean = contents(out)
    FeatureReader([out], online=True)  # its index does not count
    capsys.readouterr()
    assert pack(data, out) == first | {"made": False} and "whole" in capsys.readouterr().out
    (out / "shard-000002.tar").write_bytes(clean["shard-000002.tar"][:-1])
    assert pack(data, out)["made"] and contents(out) == clean
    assert pack(data, out, shard_seconds=2.0)["made"] and contents(out) != clean
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match=r"precious.*did not write"):
        pack(data, tmp_path / "precious")
    assert any("would replace it" in problem for problem in Config(data=data, out=tmp_path).problems())


def test_missing_files_are_listed_and_too_many_are_an_error(data: Path, tmp_path: Path) -> None:
    files = sorted((tmp_path / "raw audio").iterdir())
    (tmp_path / "raw audio" / "caf\u00e9 3: x.flac").unlink()
    (tmp_path / "raw audio" / "caf\u00e9 4: x.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"4 of 24 .*0\.10%.*empty 2, missing 2") as caught:
        pack(data, tmp_path / "packed")
    assert "s1-rec03-0.0: " in str(caught.value) and "--max-dropped" in str(caught.value)
    assert not (tmp_path / "packed").exists()
    summary = pack(data, tmp_path / "packed", max_dropped=0.5)
    assert summary["dropped"] == {"empty": 2, "missing": 2} and summary["utterances"] == 2 * NUM - 4
    after = kaldi_dir.read(tmp_path / "packed")
    assert not {"rec03", "rec04"} & after.wav_scp.keys() and len(after.segments) == 2 * NUM - 4
    rows = [line.split("\t") for line in (tmp_path / "packed" / "dropped.tsv").read_text(encoding="utf-8").splitlines()]
    assert [row[:2] for row in rows[1:]] == [
        *[["s0-rec04-0.0", "empty"], ["s0-rec04-0.3", "empty"]],
        *[["s1-rec03-0.0", "missing"], ["s1-rec03-0.3", "missing"]],
    ]
    for path in files:
        path.unlink(missing_ok=True)
    with pytest.raises(DataError, match="nothing left, all 24"):
        pack(data, tmp_path / "none", max_dropped=1.0)


def test_killed_it_leaves_nothing_that_a_later_run_would_take(data: Path, tmp_path: Path) -> None:
    pack(data, tmp_path / "packed")
    clean = contents(tmp_path / "packed")
    append = shards._append
    for old in (True, False):  # over a folder of another make, and over nothing
        shutil.rmtree(tmp_path / "packed")
        if old:
            pack(data, tmp_path / "packed", shard_seconds=5.0)
            before = contents(tmp_path / "packed")
        child = os.fork()
        if child == 0:  # dies in its second shard, as from SIGKILL
            shards._append = lambda tar, *rest: os._exit(9) if "shard-000002" in str(tar.name) else append(tar, *rest)
            pack(data, tmp_path / "packed")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert contents(tmp_path / "packed") == before if old else not (tmp_path / "packed").exists()
        pack(data, tmp_path / "packed")
        assert contents(tmp_path / "packed") == clean
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "packed", "raw audio"]


def test_without_segments_text_and_counts(tmp_path: Path) -> None:
    wav = {f"u{number}": str(write_audio(tmp_path / f"{number}.wav", seed=number)) for number in range(3)}
    kaldi_dir.write(tmp_path / "d", wav_scp=wav, utt2spk=dict.fromkeys(wav, "s"), utt2dur=dict.fromkeys(wav, 0.5))
    pack(tmp_path / "d", tmp_path / "packed")
    after = kaldi_dir.read(tmp_path / "packed")
    assert after.text is None and after.num_samples is None and after.segments == {}
    reader, expected = (FeatureReader([tmp_path / name], online=True) for name in ("packed", "d"))
    assert all(torch.equal(reader.load(number), expected.load(number)) for number in range(3))


def test_a_damaged_shard_is_named_with_the_utterance(data: Path, tmp_path: Path) -> None:
    pack(data, tmp_path / "packed")
    reader = FeatureReader([tmp_path / "packed"], online=True)
    shard = tmp_path / "packed" / "shard-000002.tar"
    place = kaldi_dir.read(tmp_path / "packed").wav_scp["rec04"].rpartition(":")[2]
    shard.write_bytes(shard.read_bytes()[: int(place) + 100])
    number = list(reader.utt_ids).index("s0-rec04-0.3")
    with pytest.raises(AudioError, match=rf"shard-000002\.tar:{place}: undecodable: s0-rec04-0\.3: .*cut short"):
        reader.load(number)
    shard.unlink()
    with pytest.raises(DataError, match=r"s0-rec04-0\.3: .*shard-000002\.tar: cannot be read"):
        reader.load(number)


def test_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["shard", str(data), "--out", str(tmp_path / "packed"), "--shard-seconds", "2", "--num-jobs", "1", "--json"]
    assert cli.main(line) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["recordings"] == NUM
    assert (
        cli.main(["shard", str(data), "--out", str(tmp_path / "x"), "--shard-seconds", "0", "--max-dropped", "2"]) == 2
    )
    message = capsys.readouterr().err
    assert "shard_seconds: 0.0 is not positive" in message and "2.0 is no share" in message
    assert cli.main(["shard", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 3
    assert "stage 0" in capsys.readouterr().err
