"""Words with their times and confidences, and recordings that are longer than what the model was trained on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.data.speech import make_dir
from tests.test_documentation import write_tiny_model
from w2vbert_asr import load_model
from w2vbert_asr.cli import main
from w2vbert_asr.confidence import word_posteriors
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.features.fbank import fbank
from w2vbert_asr.recognizer import Recognizer
from w2vbert_asr.search import SearchConfig
from w2vbert_asr.search.ctc_alignment import ctc_alignment

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recognizer") / "model"
    write_tiny_model(folder, blank_bias=4.0, contrast=6.0)
    return folder


@pytest.fixture(scope="module")
def recognizer(model: Path) -> Recognizer:
    return load_model(model, "cpu", SearchConfig(name="greedy", max_symbols_per_frame=3))


def tones(seconds: float, seed: int) -> np.ndarray:
    """A tune: another pitch and loudness every quarter of a second."""
    rng = np.random.default_rng(seed)
    pitch, loudness = rng.uniform(100, 6000, round(seconds * 4)), rng.uniform(0.02, 0.5, round(seconds * 4))
    phase = 2 * np.pi * np.cumsum(np.repeat(pitch, RATE // 4)) / RATE
    return (np.repeat(loudness, RATE // 4) * np.sin(phase)).astype(np.float32)


def recording(*seconds: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Tunes with a second of silence behind each, and the same one by one, cut amid the silences."""
    parts = [np.concatenate([tones(length, seed), np.zeros(RATE, np.float32)]) for seed, length in enumerate(seconds)]
    whole = np.concatenate(parts)
    ends = np.cumsum([len(part) for part in parts])[:-1] - RATE // 2
    return whole, np.split(whole, ends)


def test_a09_a_long_recording_reads_as_its_utterances_do(recognizer: Recognizer, tmp_path: Path) -> None:
    whole, parts = recording(8.0, 6.0, 8.5, 7.0, 6.5, 8.0)
    soundfile.write(tmp_path / "long.wav", whole, RATE, subtype="FLOAT")
    found = recognizer.transcribe(tmp_path / "long.wav", max_seconds=10.0)
    alone = [recognizer.transcribe(part, RATE, max_seconds=100.0) for part in parts]
    assert all(one.text for one in alone)
    assert found.text == " ".join(one.text for one in alone)
    assert found.score == pytest.approx(sum(one.score for one in alone), abs=1e-2)
    begins = np.cumsum([0, *(len(part) for part in parts[:-1])]) / RATE
    wanted = [begin + word.start for begin, one in zip(begins, alone, strict=True) for word in one.words]
    assert [word.start for word in found.words] == pytest.approx(wanted, abs=0.011)
    assert list(found.times) == sorted(found.times)
    assert [word.word for word in found.words] == found.text.split()
    samples = recognizer.transcribe(whole, RATE, max_seconds=10.0)
    assert (samples.text, samples.times) == (found.text, found.times)
    assert recognizer.transcribe(whole, RATE, max_seconds=100.0).words[-1].start < found.words[-1].start


def test_a09_the_verb_cuts_as_well(
    model: Path, recognizer: Recognizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, recording(20.0, 20.0)[0], RATE)
    line = ["transcribe", "--model", str(model), str(path), "--device", "cpu", "--search", "greedy", "--json"]
    line += ["--set", "search.max_symbols_per_frame=3"]
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["transcripts"][str(path)]
    assert found["text"] == recognizer.transcribe(path, max_seconds=30.0).text
    assert found["words"][-1]["start"] > 15
    assert main(["transcribe", "--model", str(model), str(path), "--set", "max_seconds=0.5"]) == 2
    assert "max_seconds" in capsys.readouterr().err


def test_hypotheses_at_the_limit_are_counted_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = tmp_path / "model", make_dir(tmp_path, num_utts=4)
    write_tiny_model(model, blank_bias=3.0, contrast=6.0)
    for most, said in ((1, True), (100, False)):
        caplog.clear()
        line = ["decode", "--model", model, "--data", data, "--out", tmp_path / f"out{most}", "--device", "cpu"]
        assert main([str(part) for part in (*line, "--set", f"search.max_symbols_per_frame={most}")]) == 0
        capped = json.loads((tmp_path / f"out{most}" / "decode.json").read_text())["capped"]
        assert (f"{capped} hypotheses reached the limit" in caplog.text) == said == (capped > 0)


def test_times_are_those_of_ctc_where_the_model_has_it(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model", blank_bias=4.0, contrast=6.0, ctc_weight=1.0)
    recognizer = load_model(tmp_path / "model", "cpu")
    feats = [fbank(torch.from_numpy(tones(seconds, 3)), RATE) for seconds in (3.0, 5.0)]
    found = recognizer.recognize(feats)
    for own, one in zip(feats, found, strict=True):
        with torch.no_grad():
            padded, length = recognizer.stats.normalize(own)[None], torch.tensor([len(own)])
            encoder_out, lens, ctc = recognizer.model.encode_with_ctc(padded, length)
        assert ctc is not None and torch.equal(encoder_out, recognizer.model.encode(padded, length)[0])
        best = one.hypotheses[0]
        (frames,) = ctc_alignment(ctc, lens, [best.tokens], 0)
        assert frames is not None and len(frames) > 3 and frames != best.times
        assert one.transcript.times == pytest.approx([0.04 * frame for frame in frames])
        assert next(word.start for word in one.transcript.words) == pytest.approx(0.04 * frames[0])


def test_words_of_a_decoding(tmp_path: Path) -> None:
    """Times, confidences and the ctm, against a decoder that goes token by token and a sum over the n-best."""
    model, data = tmp_path / "model", make_dir(tmp_path, num_utts=8)
    write_tiny_model(model, blank_bias=3.0, contrast=6.0)
    recognizer = load_model(model, "cpu")
    for number, path in enumerate(sorted((tmp_path / "audio").iterdir())):
        soundfile.write(path, tones(0.5, number), RATE)
    line = ["decode", "--model", model, "--data", data, "--out", tmp_path / "out", "--device", "cpu"]
    assert main([str(part) for part in (*line, "--set", "num_best=8")]) == 0
    records = [json.loads(text) for text in (tmp_path / "out/hyp.jsonl").read_text().splitlines()]
    reader = FeatureReader([data], online=True)
    network, ctm, confidences = recognizer.model, [], []
    for number, record in enumerate(records):
        feats = recognizer.stats.normalize(reader.load(number))[None]
        encoder_out, _ = network.encode(feats, torch.tensor([feats.shape[1]]))
        words: list[list[float]] = []
        frames = [round(time / 0.04) for time in record["times"]]
        token, state = torch.tensor([0]), network.decoder.initial_state(1, torch.device("cpu"))
        spans: list[tuple[int, int]] = []
        with torch.no_grad():
            for piece, index, frame in zip(record["tokens"], record["nbest"][0]["token_ids"], frames, strict=True):
                out, state = network.decoder.step(token, state)
                rows = network.joiner.project_encoder(encoder_out[0, frame]), network.joiner.project_decoder(out[0])
                probs = network.joiner(*rows).double().exp()
                if piece.startswith("\u2581") or not words:
                    words.append([])
                    spans.append((frame, frame))
                words[-1].append((probs[index] / probs[1:].sum()).item())
                spans[-1] = (spans[-1][0], frame)
                token = torch.tensor([index])
        said = [word["word"] for word in record["words"]]
        assert said == record["text"].split() and len(said) == len(words)
        entries = record["nbest"]
        posteriors = word_posteriors([one["text"].split() for one in entries], [one["score"] for one in entries])
        for place, (own, (first, last)) in enumerate(zip(words, spans, strict=True)):
            following = spans[place + 1][0] if place + 1 < len(spans) else 0
            word = record["words"][place]
            assert word["start"] == pytest.approx(first * 0.04)
            assert word["end"] == pytest.approx(max(last + 1, following) * 0.04)
            wanted = math.sqrt(math.prod(own) * posteriors[place])
            assert word["confidence"] == pytest.approx(wanted, abs=1e-3)
            confidences.append(word["confidence"])
            duration = word["end"] - word["start"]
            ctm.append(
                f"{record['utt_id']} 1 {word['start']:.2f} {duration:.2f} {said[place]} {word['confidence']:.4f}"
            )
    assert any(len(record["words"]) > 1 for record in records)
    assert len(ctm) > 4 and len(set(confidences)) > 4 and all(0 < one < 1 for one in confidences)
    assert (tmp_path / "out/ctm").read_text().splitlines() == ctm
