"""The `mini` corpus: short spoken sentences that espeak-ng synthesizes, with disjoint voices for train, dev and test.

A speaker is a voice variant with an accent, and a rate and a pitch of its own; each sentence varies them a little, and
has its own loudness and background noise. The same seed gives the same bytes: every speaker is synthesized in a fresh
process, in a fixed order, because the synthesizer carries state from sentence to sentence. No torch.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import cycle, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from w2vbert_asr.corpora import espeak, grammar
from w2vbert_asr.corpora.raw import RawUtterance, SetSummary, write_sets
from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.data.parallel import num_processes
from w2vbert_asr.errors import DataError, ResourceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SAMPLE_RATE = 16000
ACCENTS = {
    "us": "gmw/en-US",
    "gb": "gmw/en",
    "scotland": "gmw/en-GB-scotland",
    "rp": "gmw/en-GB-x-rp",
    "caribbean": "gmw/en-029",
    "lancaster": "gmw/en-GB-x-gbclan",
    "midlands": "gmw/en-GB-x-gbcwmd",
    "nyc": "gmw/en-US-nyc",
}


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, kw_only=True)
class MiniConfig:
    """Sizes in utterances, and voice variants of espeak-ng; the variants of a set take the accents in turn."""

    num_train: int = 2000
    num_dev: int = 100
    num_test: int = 200
    # Variants that differ little from one another (f4 and aunty, m7 and Nguyen, ...) stand in the same set.
    train_voices: tuple[str, ...] = _names(
        "f1 f2 f4 aunty Andrea Annie Alicia anika steph m1 m3 m4 m6 m7 m8 Alex Andy Gene Mario Michael Nguyen antonio "
        "benjamin boris croak david edward gustave klatt4 max michel norbert pablo pedro rob travis victor"
    )
    dev_voices: tuple[str, ...] = _names("f3 m5 Denis ed Jacky")
    test_voices: tuple[str, ...] = _names("f5 m2 belinda Mike grandma john linda paul grandpa sandro")

    @property
    def sets(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Name -> (utterances, variants)."""
        return {
            "train": (self.num_train, self.train_voices),
            "dev": (self.num_dev, self.dev_voices),
            "test": (self.num_test, self.test_voices),
        }

    def problems(self) -> list[str]:
        """What does not fit together."""
        found = []
        for name, (count, voices) in self.sets.items():
            if not 1 <= len(voices) <= count:
                found.append(f"num_{name}: {count} utterances of {len(voices)} voices; at least one of each voice")
        variants = [variant for _, names in self.sets.values() for variant in names]
        repeated = sorted({variant for variant in variants if variants.count(variant) > 1})
        if repeated:
            found.append(f"voices: {', '.join(repeated)} stand(s) twice; a voice belongs to one set")
        return found


@dataclass(frozen=True, kw_only=True)
class Line:
    """One utterance to be: what is said by which voice, and what is done to the samples."""

    utt_id: str
    speaker: str
    text: str
    voice: str  # identifier of the synthesizer
    prompt: espeak.Prompt
    silence: tuple[float, float]  # seconds before and after
    level: float  # dB, root mean square, of full scale
    snr: float  # dB, speech over noise
    noise_seed: int


def make(out: Path, seed: int, num_jobs: int, config: MiniConfig | None = None) -> dict[str, SetSummary]:
    """Write the corpus: `out`/audio and the data directories `out`/train, dev and test.

    Audio of the same plan that is there whole is kept. Raises SetupError without the wheel, DataError where
    `out`/audio holds anything else.
    """
    sets = plan(config or MiniConfig(), seed)
    lines = [line for name in sets for line in sets[name]]
    audio = out / "audio"
    digest = hashlib.sha256(repr(lines).encode()).hexdigest()
    if _is_whole(audio, seed, digest, lines):
        print(f"mini: {audio} is whole, {len(lines)} utterances", file=sys.stderr)
    else:
        with atomic_dir(audio) as folder:
            _render_all(lines, folder, num_jobs)
            (folder / "plan.json").write_text(json.dumps({"seed": seed, "sha256": digest}) + "\n", encoding="utf-8")
    return write_sets(out, {name: [_raw(line, audio) for line in sets[name]] for name in sets}, num_jobs)


def plan(config: MiniConfig, seed: int) -> dict[str, list[Line]]:
    """Every utterance of every set, a pure function of its arguments.

    No sentence of test is in dev or train, none of dev in train.
    """
    rng = random.Random(f"mini {seed}")
    taken: set[str] = set()
    sets: dict[str, list[Line]] = {}
    for name in ("test", "dev", "train"):
        count, variants = config.sets[name]
        texts = [_unheard(rng, taken) for _ in range(count)]
        taken.update(texts if name != "train" else ())
        speakers = enumerate(zip(variants, cycle(ACCENTS), strict=False))
        sets[name] = [
            line
            for i, (variant, accent) in speakers
            for line in _speak(f"{variant}-{accent}", f"{ACCENTS[accent]}+{variant}", texts[i :: len(variants)], rng)
        ]
    return {name: sets[name] for name in config.sets}


def _unheard(rng: random.Random, taken: set[str]) -> str:
    while (text := grammar.sentence(rng)) in taken:
        pass
    return text


def _speak(speaker: str, voice: str, texts: list[str], rng: random.Random) -> Iterator[Line]:
    """The lines of one speaker."""
    rate, pitch, liveliness = rng.uniform(140, 185), rng.uniform(35, 65), rng.uniform(30, 70)
    for i, text in enumerate(texts):
        yield Line(
            utt_id=f"{speaker}-{i:04d}",
            speaker=speaker,
            text=text,
            voice=voice,
            prompt=espeak.Prompt(
                text=grammar.spoken(text),
                rate=round(rate * rng.uniform(0.9, 1.15)),
                pitch=round(pitch + rng.uniform(-10, 10)),
                pitch_range=round(liveliness + rng.uniform(-15, 15)),
            ),
            silence=(rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.3)),
            level=rng.uniform(-30, -20),
            snr=rng.uniform(25, 45),
            noise_seed=rng.getrandbits(64),
        )


# --- plan -> audio ----------------------------------------------------------------------------------------------------


def _is_whole(audio: Path, seed: int, digest: str, lines: list[Line]) -> bool:
    """Whether `audio` holds this plan. DataError if it is not ours, and would be lost."""
    if not audio.exists():
        return False
    try:
        found = json.loads((audio / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{audio}: is there, and not of the mini corpus ({error}); choose another --out") from error
    return found == {"seed": seed, "sha256": digest} and all(_path(line, audio).is_file() for line in lines)


def _render_all(lines: list[Line], folder: Path, num_jobs: int) -> None:
    """Every line to a file, `num_jobs` speakers at a time, each in a process of its own."""
    from tqdm import tqdm

    speakers: dict[str, list[Line]] = {}
    for line in lines:
        speakers.setdefault(line.speaker, []).append(line)
    with ThreadPoolExecutor(num_processes(num_jobs)) as threads:
        done = threads.map(_in_fresh_process, speakers.values(), repeat(folder))
        for _ in tqdm(done, "synthesize", len(speakers), unit="voice", disable=None, file=sys.stderr):
            pass


def _in_fresh_process(lines: list[Line], folder: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            process.submit(_render, lines, folder).result()
        except BrokenProcessPool as error:
            raise ResourceError(
                f"espeak-ng died with voice {lines[0].voice} ({error}); use fewer --num-jobs"
            ) from error


def _render(lines: list[Line], folder: Path) -> None:
    """The lines of one speaker to files."""
    import soundfile

    _path(lines[0], folder).parent.mkdir(parents=True)
    samples = espeak.synthesize(lines[0].voice, [line.prompt for line in lines])
    for line, speech in zip(lines, samples, strict=True):
        soundfile.write(_path(line, folder), _finish(speech, line), SAMPLE_RATE, subtype="PCM_16")


def _finish(speech: npt.NDArray[np.int16], line: Line) -> npt.NDArray[np.int16]:
    """(N,) as synthesized -> (M,) at 16 kHz, at its level, with silence around and noise beneath; never clipped."""
    import numpy as np
    import soxr

    signal = soxr.resample(speech.astype(np.float64) / 32768, espeak.SAMPLE_RATE, SAMPLE_RATE, quality="HQ")
    level = 10 ** (line.level / 20)
    signal *= min(level / np.sqrt(np.mean(signal**2)), 0.8 / np.max(np.abs(signal)))
    signal = np.pad(signal, [round(seconds * SAMPLE_RATE) for seconds in line.silence])
    signal += np.random.default_rng(line.noise_seed).normal(0.0, level * 10 ** (-line.snr / 20), len(signal))
    samples: npt.NDArray[np.int16] = np.round(32767 * np.clip(signal, -1.0, 1.0)).astype(np.int16)
    return samples


def _raw(line: Line, audio: Path) -> RawUtterance:
    return RawUtterance(utt_id=line.utt_id, speaker=line.speaker, audio=_path(line, audio), text=line.text)


def _path(line: Line, audio: Path) -> Path:
    return audio / line.speaker / f"{line.utt_id}.flac"
