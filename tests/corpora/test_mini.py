"""The synthesised corpus: its plan, its bytes, and what espeak-ng does not say by itself."""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2vbert_asr.corpora import espeak, grammar, mini
from w2vbert_asr.data.files import sha256
from w2vbert_asr.data.kaldi_dir import read
from w2vbert_asr.errors import DataError, SetupError

pytest.importorskip("espeakng_loader")

SMALL = mini.MiniConfig(
    num_train=4, num_dev=2, num_test=2, train_voices=("f2", "klatt4"), dev_voices=("m5",), test_voices=("m2",)
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini")
    mini.make(out, seed=3, num_jobs=2, config=SMALL)
    assert {name: len(read(out / name).utt2spk) for name in SMALL.sets} == {"train": 4, "dev": 2, "test": 2}
    return out


def contents(out: Path) -> dict[str, str]:
    """Relative path -> digest; of the tables without the absolute part of the paths."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    audio = {str(path.relative_to(out)): sha256(path) for path in files if path.suffix == ".flac"}
    tables = {str(path.relative_to(out)): path.read_text().replace(str(out), "") for path in files if not path.suffix}
    assert len(audio) == 8 and tables
    return audio | tables


def test_sets_share_no_voice_and_no_test_sentence_is_trained_on() -> None:
    sets = mini.plan(mini.MiniConfig(), seed=1)
    variants = {name: {line.voice.split("+")[1] for line in sets[name]} for name in sets}
    assert sum(len(names) for names in variants.values()) == len(set.union(*variants.values())) >= 24
    texts = {name: {line.text for line in sets[name]} for name in sets}
    assert not texts["test"] & (texts["train"] | texts["dev"]) and not texts["dev"] & texts["train"]
    words = {name: {word for text in texts[name] for word in text.split()} for name in texts}
    assert 80 <= len(words["train"]) <= 100
    assert words["test"] <= words["train"] and words["dev"] <= words["train"]
    ids = [line.utt_id for lines in sets.values() for line in lines]
    assert len(set(ids)) == len(ids)
    assert all(line.utt_id.startswith(line.speaker + "-") for lines in sets.values() for line in lines)


def test_a_plan_is_a_function_of_its_seed() -> None:
    assert mini.plan(SMALL, seed=3) == mini.plan(SMALL, seed=3) != mini.plan(SMALL, seed=4)


def test_sentences_are_many_and_have_two_to_eight_words() -> None:
    rng = random.Random(0)
    sentences = [grammar.sentence(rng) for _ in range(3000)]
    assert {len(sentence.split()) for sentence in sentences} == set(range(2, 9))
    assert len(set(sentences)) > 2000
    assert [grammar.number(n) for n in (0, 9, 10, 19, 20, 31)] == [
        "zero",
        "nine",
        "ten",
        "nineteen",
        "twenty",
        "thirty one",
    ]


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_jobs(corpus: Path, tmp_path: Path) -> None:
    mini.make(tmp_path / "again", seed=3, num_jobs=1, config=SMALL)
    assert contents(tmp_path / "again") == contents(corpus)


def test_audio_is_speech_at_16_khz(corpus: Path) -> None:
    spectra: dict[str, np.ndarray] = {}
    for name in ("train", "dev", "test"):
        data = read(corpus / name)
        for utterance in data.utterances():
            samples, rate = soundfile.read(data.audio_path(utterance.rec_id))
            assert rate == 16000 and samples.ndim == 1 and len(samples) == utterance.num_samples
            assert 0.5 < utterance.duration < 6 and np.abs(samples).max() < 0.95
            assert -40 < 10 * np.log10(np.mean(samples**2)) < -15
            power = np.abs(np.fft.rfft(samples)) ** 2
            bands = [band.sum() / power.sum() for band in np.array_split(power, 8)]
            assert sum(bands[4:]) > 1e-5  # above 4 kHz: the whole band is there
            assert sum(bands[:4]) > 0.5
            spectra.setdefault(utterance.speaker, np.log(bands))
    assert min(np.abs(a - b).max() for a in spectra.values() for b in spectra.values() if a is not b) > 0.3


def test_a_second_run_finds_the_audio_whole_and_mends_what_is_missing(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    mini.make(out, seed=3, num_jobs=2, config=SMALL)
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")}
    mini.make(out, seed=3, num_jobs=2, config=SMALL)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")} == kept
    next(iter(kept)).unlink()
    mini.make(out, seed=3, num_jobs=2, config=SMALL)
    assert contents(out) == contents(corpus)


def test_nothing_stays_behind_when_a_voice_is_unknown(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, test_voices=("nobody",))
    with pytest.raises(SetupError, match=r"no voice gmw/en-US\+nobody .*would speak with gmw/en-US"):
        mini.make(tmp_path, seed=1, num_jobs=2, config=config)
    assert not list(tmp_path.iterdir())


def test_a_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "mine.wav").touch()
    with pytest.raises(DataError, match="choose another --out"):
        mini.make(tmp_path, seed=1, num_jobs=1, config=SMALL)
    assert (tmp_path / "audio" / "mine.wav").exists()


def test_every_default_voice_exists_and_unknown_ones_are_refused() -> None:
    for lines in mini.plan(mini.MiniConfig(), seed=1).values():
        for voice in {line.voice for line in lines}:
            assert list(espeak.synthesize(voice, [])) == []
    for voice in ("gmw/en-US+nobody", "gmw/nowhere", "en-us+f1"):
        with pytest.raises(SetupError, match="no voice"):
            list(espeak.synthesize(voice, []))


def test_a_missing_wheel_and_unreadable_data_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path / ("x" * 200)))
    with pytest.raises(SetupError, match="shorter path"):
        list(espeak.synthesize("gmw/en-US", []))
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SetupError, match=r"pip install 'w2vbert_asr\[mini\]'"):
        list(espeak.synthesize("gmw/en-US", []))


def test_wrong_sizes_and_shared_voices_are_reported_together() -> None:
    config = mini.MiniConfig(num_test=3, dev_voices=("m5", "f1"))
    assert [problem.split(":")[0] for problem in config.problems()] == ["num_test", "voices"]
    assert mini.MiniConfig().problems() == []


def test_the_letter_a_is_not_spoken_as_an_article() -> None:
    assert grammar.spoken("spell a b a") == "spell eh b eh"
