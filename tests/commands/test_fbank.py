"""Stage 1 on small data directories: numbers, tables, drops, repetition and damage."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2vbert_asr import cli
from w2vbert_asr.commands.fbank import Config, run
from w2vbert_asr.data import dump, kaldi_dir
from w2vbert_asr.data.archive import read_feats
from w2vbert_asr.data.kaldi_dir import Segment
from w2vbert_asr.errors import ConfigError, DataError
from w2vbert_asr.features.fbank import fbank
from w2vbert_asr.features.stats import FeatureStats

NUM = 12


def samples_of(number: int) -> np.ndarray:
    count = 8000 + 640 * number
    return (np.random.default_rng(number).standard_normal(count) * 0.1).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve utterances of two speakers; the audio lies outside, under relative paths with a space."""
    (tmp_path / "raw audio").mkdir()
    names = [f"spk{n % 2}-utt{n:02d}" for n in range(NUM)]
    for number, name in enumerate(names):
        soundfile.write(tmp_path / "raw audio" / f"{name}.wav", samples_of(number), 16000, subtype="FLOAT")
    kaldi_dir.write(
        tmp_path / "data",
        wav_scp={name: f"../raw audio/{name}.wav" for name in names},
        utt2spk={name: name[:4] for name in names},
        utt2dur={name: len(samples_of(n)) / 16000 for n, name in enumerate(names)},
        text={name: f"WORD {n}" for n, name in enumerate(names)},
        num_samples={name: len(samples_of(n)) for n, name in enumerate(names)},
    )
    return tmp_path / "data"


def feats_of(folder: Path) -> dict[str, torch.Tensor]:
    table = kaldi_dir.read(folder).feats_scp or {}
    return {utt_id: torch.from_numpy(read_feats(place, folder, utt_id)) for utt_id, place in table.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spoil(data: Path, number: int, content: bytes = b"no audio") -> str:
    path = sorted((data.parent / "raw audio").iterdir(), key=lambda path: path.name[-6:])[number]
    path.write_bytes(content)
    return path.stem


def test_numbers_and_tables(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "dump" / "train"
    summary = run(Config(data=data, out=out, num_jobs=1))
    before, after, feats = kaldi_dir.read(data), kaldi_dir.read(out), feats_of(out)
    assert len(feats) == summary["utterances"] == NUM and summary["dropped"] == {} and summary["made"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for number, utt_id in enumerate(sorted(feats, key=lambda name: name[-2:])):
        assert torch.equal(feats[utt_id], fbank(samples_of(number), 16000))
    torch.set_num_threads(threads)
    assert after.utt2num_frames == {utt_id: len(item) for utt_id, item in feats.items()}
    assert summary["frames"] == sum(map(len, feats.values()))
    for name in ("text", "utt2spk", "utt2dur", "num_samples", "spk2utt"):
        assert getattr(after, name) == getattr(before, name)
    assert all(after.audio_path(utt_id).samefile(before.audio_path(utt_id)) for utt_id in feats)
    assert all(Path(place.rpartition(":")[0]).is_absolute() for place in (after.feats_scp or {}).values())
    assert not (out / "feature_stats.safetensors").exists()


def test_online_leaves_out_the_archives_alone(data: Path, tmp_path: Path) -> None:
    spoil(data, 3)
    for name, online in (("with", False), ("without", True)):
        run(Config(data=data, out=tmp_path / name, stats=True, online=online, num_jobs=1, max_dropped=0.1))
    first, second = contents(tmp_path / "with"), contents(tmp_path / "without")
    assert first.keys() - second.keys() == {"feats.scp", "feats.1.ark"} and not second.keys() - first.keys()
    assert all(second[name] == first[name] for name in second.keys() - {"source.json"})
    with pytest.raises(ConfigError, match=r"data\.speeds of the training"):
        cli.configuration.load(Config, None, ["speeds=[0.9, 1.0]"], {"data": data, "out": data / "x", "online": True})


def test_speeds_and_statistics(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "dump"
    run(Config(data=data, out=out, stats=True, speeds=(0.9, 1.0, 1.1), num_jobs=1))
    after, feats = kaldi_dir.read(out), feats_of(out)
    assert len(feats) == 3 * NUM and set(after.utt2spk.values()) == {
        prefix + speaker for prefix in ("", "sp0.9-", "sp1.1-") for speaker in ("spk0", "spk1")
    }
    assert after.text is not None and after.text["sp0.9-spk1-utt03"] == "WORD 3"
    for speed, prefix in ((0.9, "sp0.9-"), (1.1, "sp1.1-")):
        utt_id = prefix + "spk1-utt03"
        assert after.utt2spk[utt_id] == prefix + "spk1"
        assert after.utt2dur[utt_id] == pytest.approx(after.utt2dur["spk1-utt03"] / speed)
        assert len(feats[utt_id]) == pytest.approx(len(feats["spk1-utt03"]) / speed, abs=3)
    stats = FeatureStats.load(out / "feature_stats.safetensors")
    everything = torch.cat(list(feats.values())).double()
    assert stats.count == len(everything)
    np.testing.assert_allclose(stats.mean, everything.mean(dim=0), rtol=1e-5)
    np.testing.assert_allclose(stats.std, everything.std(dim=0, correction=0), rtol=1e-5)


def test_the_number_of_processes_changes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2vbert_asr.commands.fbank.SECONDS_PER_PROCESS", 1.0)
    monkeypatch.setattr(dump, "SHARD_SECONDS", (2.0, 3600.0))
    found = []
    for num_jobs in (1, 2):
        run(Config(data=data, out=tmp_path / "dump", stats=True, num_jobs=num_jobs))
        found.append(contents(tmp_path / "dump"))
        (tmp_path / "dump").rename(tmp_path / f"dump{num_jobs}")
    assert found[0] == found[1] and {"feats.1.ark", "feats.2.ark", "feats.3.ark"} <= found[0].keys()


def test_segments(data: Path, tmp_path: Path) -> None:
    tables = kaldi_dir.read(data)
    pieces = {f"spk1-utt03-{n}": Segment(rec_id="spk1-utt03", start=0.1 * n, end=0.1 * n + 0.25) for n in range(3)}
    kaldi_dir.write(
        tmp_path / "pieces",
        wav_scp={"spk1-utt03": str(tables.audio_path("spk1-utt03"))},
        segments=pieces,
        utt2spk=dict.fromkeys(pieces, "spk1"),
        utt2dur=dict.fromkeys(pieces, 0.25),
    )
    run(Config(data=tmp_path / "pieces", out=tmp_path / "dump", speeds=(1.0, 1.1), num_jobs=1))
    after, feats = kaldi_dir.read(tmp_path / "dump"), feats_of(tmp_path / "dump")
    assert after.text is None and after.num_samples is None and list(after.wav_scp) == ["spk1-utt03"]
    assert after.segments["sp1.1-spk1-utt03-2"] == after.segments["spk1-utt03-2"] == pieces["spk1-utt03-2"]
    expected = fbank(samples_of(3)[3200:7200], 16000)
    torch.testing.assert_close(feats["spk1-utt03-2"], expected, rtol=0, atol=1e-5)


def test_again_it_says_so_and_touches_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(data=data, out=tmp_path / "dump", num_jobs=1)
    first = run(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dump").iterdir()}
    capsys.readouterr()
    assert run(config) == first | {"made": False}
    assert "whole" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "dump").iterdir()}


@pytest.mark.parametrize("change", ["option", "audio", "text", "archive", "record"])
def test_made_anew_when_anything_differs(data: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "dump"
    run(Config(data=data, out=out, num_jobs=1))
    clean = contents(out)
    if change == "audio":
        shorter = samples_of(3)[:-160]
        soundfile.write(tmp_path / "raw audio" / "spk1-utt03.wav", shorter, 16000, subtype="FLOAT")
        tables = (data / "utt2num_samples").read_text()
        (data / "utt2num_samples").write_text(tables.replace(f"utt03 {len(shorter) + 160}", f"utt03 {len(shorter)}"))
    elif change == "text":
        (data / "text").write_text((data / "text").read_text().replace("WORD 3", "WORT 3"))
    elif change == "archive":
        (out / "feats.1.ark").write_bytes(clean["feats.1.ark"][:-1])
    elif change == "record":
        (out / "source.json").write_text("{")
    again = run(Config(data=data, out=out, num_jobs=1, min_frames=9 if change == "option" else 10))
    assert again["made"]
    assert (contents(out) == clean) == (change in ("archive", "record"))


def test_unsorted_tables_are_the_same_input(data: Path, tmp_path: Path) -> None:
    run(Config(data=data, out=tmp_path / "dump", num_jobs=1))
    for name in ("wav.scp", "text", "utt2spk", "utt2dur"):
        lines = (data / name).read_text().splitlines(keepends=True)
        (data / name).write_text("".join(reversed(lines)))
    assert not run(Config(data=data, out=tmp_path / "dump", num_jobs=1))["made"]


def test_damaged_audio_within_the_share_is_dropped_and_listed(data: Path, tmp_path: Path) -> None:
    tables = kaldi_dir.read(data)
    files = {utt_id: tables.audio_path(utt_id) for utt_id in tables.wav_scp}
    files["spk0-utt00"].write_bytes(b"<html>not found</html>")
    files["spk1-utt01"].write_bytes(b"")
    files["spk0-utt02"].unlink()
    broken = samples_of(3)
    broken[100] = np.nan
    soundfile.write(files["spk1-utt03"], broken, 16000, subtype="FLOAT")
    soundfile.write(files["spk0-utt04"], samples_of(4)[:-1], 16000, subtype="FLOAT")
    soundfile.write(files["spk1-utt05"], np.zeros(len(samples_of(5))), 16000, subtype="FLOAT")
    summary = run(Config(data=data, out=tmp_path / "dump", max_dropped=0.5, num_jobs=1))
    reasons = dict.fromkeys(["empty", "frames_mismatch", "missing", "nonfinite", "silent", "undecodable"], 1)
    assert summary["dropped"] == reasons and summary["utterances"] == 6
    rows = [line.split("\t") for line in (tmp_path / "dump" / "dropped.tsv").read_text().splitlines()]
    assert {row[0]: row[1] for row in rows[1:]} == {
        "spk0-utt00": "undecodable",
        "spk1-utt01": "empty",
        "spk0-utt02": "missing",
        "spk1-utt03": "nonfinite",
        "spk0-utt04": "frames_mismatch",
        "spk1-utt05": "silent",
    }
    assert len(kaldi_dir.read(tmp_path / "dump").utterances()) == 6


def test_damage_past_the_share_ends_in_one_message_and_no_folder(data: Path, tmp_path: Path) -> None:
    spoiled = [spoil(data, number) for number in (2, 5)]
    with pytest.raises(DataError, match=r"2 of 12 .*0\.10%.*undecodable 2") as caught:
        run(Config(data=data, out=tmp_path / "dump", num_jobs=1))
    assert all(utt_id in str(caught.value) for utt_id in spoiled) and "--max-dropped" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "raw audio"]


def test_too_short_and_too_long_are_no_damage(data: Path, tmp_path: Path) -> None:
    limits = {"min_frames": 56, "max_duration": 0.8}  # 48 to 92 frames, 0.5 to 0.94 s
    summary = run(Config(data=data, out=tmp_path / "dump", num_jobs=1, **limits))
    frames = [1 + (len(samples_of(n)) - 400) // 160 for n in range(NUM)]
    long = sum(len(samples_of(n)) / 16000 > 0.8 for n in range(NUM))
    assert summary["dropped"] == {"too_long": long, "too_short": sum(count < 56 for count in frames)}
    with pytest.raises(DataError, match="nothing left"):
        run(Config(data=data, out=tmp_path / "other", num_jobs=1, max_duration=0.1))
    assert not (tmp_path / "other").exists()


def test_interrupted_it_leaves_the_old_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Config(data=data, out=tmp_path / "dump", num_jobs=1))
    before = contents(tmp_path / "dump")

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(dump, "write_feats", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(Config(data=data, out=tmp_path / "dump", num_jobs=1, min_frames=9))
    assert contents(tmp_path / "dump") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "dump", "raw audio"]


def test_killed_it_leaves_nothing_that_a_later_run_would_take(data: Path, tmp_path: Path) -> None:
    run(Config(data=data, out=tmp_path / "dump", num_jobs=1))
    clean = contents(tmp_path / "dump")
    shutil.rmtree(tmp_path / "dump")
    child = os.fork()
    if child == 0:  # dies in its second shard, as from SIGKILL: nothing is cleaned up
        dump.SHARD_SECONDS = (2.0, 3600.0)
        whole = dump._write
        dump._write = lambda shard: whole(shard) if shard.path.name == "feats.1.ark" else os._exit(9)
        run(Config(data=data, out=tmp_path / "dump", num_jobs=1))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "dump").exists()
    run(Config(data=data, out=tmp_path / "dump", num_jobs=1))
    assert contents(tmp_path / "dump") == clean
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "dump", "raw audio"]


def test_folders_of_others_are_safe(data: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"precious.*did not write"):
        run(Config(data=data, out=tmp_path / "precious", num_jobs=1))
    assert (tmp_path / "precious" / "thesis.txt").exists()
    for out in (data, tmp_path):
        assert any("would replace it" in problem for problem in Config(data=data, out=out).problems())


def test_copies_of_copies_are_refused(data: Path, tmp_path: Path) -> None:
    run(Config(data=data, out=tmp_path / "dump", speeds=(0.9, 1.0), num_jobs=1))
    with pytest.raises(DataError, match=r"copies.*--speeds 1\.0"):
        run(Config(data=tmp_path / "dump", out=tmp_path / "twice", speeds=(0.9, 1.0), num_jobs=1))


def test_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["fbank", str(data), "--out", str(tmp_path / "dump"), "--stats", "--speeds", "0.9", "1.0", "--json"]
    assert cli.main([*line, "--num-jobs", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["utterances"] == 2 * NUM
    assert cli.main(["fbank", str(data), "--out", str(tmp_path / "x"), "--speeds", "0.9", "0.9", "7"]) == 2
    message = capsys.readouterr().err
    assert "7.0 is not in 0.5 to 2" in message and "different factors" in message
    assert cli.main(["fbank", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 3
    assert "stage 0" in capsys.readouterr().err
