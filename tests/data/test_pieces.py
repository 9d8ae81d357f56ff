"""Cutting long recordings: nothing lost, nothing twice, where it is quiet, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.speech import noise, write_audio
from w2vbert_asr.data.audio import AudioError, read_audio
from w2vbert_asr.data.pieces import cut, read_pieces

RATE = 16000


def slow_cut(samples: np.ndarray, most: int) -> list[int]:
    """Where the pieces begin: the same rule, with a sum for each stretch."""
    begins = [0]
    while len(samples) - begins[-1] > most:
        first = begins[-1] + most // 2
        starts = list(range(first, begins[-1] + most - RATE // 5 + 1, RATE // 100))
        energies = [float(np.sum(samples[start : start + RATE // 5].astype(np.float64) ** 2)) for start in starts]
        least = [start for start, energy in zip(starts, energies, strict=True) if energy <= min(energies) + 1e-9]
        begins.append(least[len(least) // 2] + RATE // 10)
    return begins


@pytest.mark.parametrize("block", [999, 16000, 1 << 20])
def test_cuts_are_those_of_the_slow_loop_however_the_blocks_are(block: int) -> None:
    loudness = np.repeat(np.random.default_rng(1).uniform(0, 1, 120), RATE // 4).astype(np.float32)
    samples = noise(30.0, seed=2) * loudness
    samples[20 * RATE : 21 * RATE] = 0.0
    pieces = list(cut([samples[i : i + block] for i in range(0, len(samples), block)], RATE, 5.0))
    assert [piece.start for piece in pieces] == slow_cut(samples, 5 * RATE)
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), samples)
    assert all(2.5 <= len(piece.samples) / RATE <= 5.0 for piece in pieces[:-1])
    assert any(abs(piece.start - 20.5 * RATE) < 0.5 * RATE for piece in pieces)


def test_what_is_short_enough_stays_whole(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", 3.0, rate=8000)
    (piece,) = read_pieces(path, RATE, 3.0)
    np.testing.assert_array_equal(piece.samples, read_audio(path, RATE))
    assert [len(one.samples) for one in cut([], RATE, 3.0)] == [0]
    assert [len(one.samples) for one in cut([noise(3.0)], RATE, 3.0)] == [48000]


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (16000, 2)])
def test_another_rate_has_no_seams(tmp_path: Path, rate: int, channels: int) -> None:
    samples = np.stack([noise(25.0, seed, rate) for seed in range(channels)], 1)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    pieces = list(read_pieces(tmp_path / "a.wav", RATE, 10.0))
    assert len(pieces) >= 3
    whole = read_audio(tmp_path / "a.wav", RATE)
    found = np.concatenate([piece.samples for piece in pieces])
    assert len(found) == len(whole)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_a09_hours_take_the_memory_of_minutes(tmp_path: Path) -> None:
    peaks, most = [], 0
    for hours in (0.5, 2.0):
        rng = np.random.default_rng(0)
        with soundfile.SoundFile(tmp_path / "long.wav", "w", 1000, 1, "PCM_U8") as file:
            for _ in range(round(hours * 60)):
                file.write(rng.uniform(-0.5, 0.5, 60_000))
        tracemalloc.start()
        total = 0
        for piece in read_pieces(tmp_path / "long.wav", RATE, 30.0):
            total += len(piece.samples)
            most = max(most, len(piece.samples))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total == hours * 3600 * RATE
    assert most <= 30 * RATE
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < 30e6, peaks  # the samples are 461 MB


def test_damage_in_the_middle_is_found_when_it_is_reached(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.flac", 300.0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200_000] = bytes(200_000)
    path.write_bytes(content)
    pieces = read_pieces(path, RATE, 20.0)
    assert next(pieces).start == 0
    with pytest.raises(AudioError):
        list(pieces)
