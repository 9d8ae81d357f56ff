"""A model folder in use: audio in, text out.

Dimension letters: N samples, B batch, T frames, F mel bins.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from w2vbert_asr import model_folder
from w2vbert_asr.confidence import token_confidences, word_confidence, word_posteriors
from w2vbert_asr.data.audio import resample
from w2vbert_asr.data.pieces import cut, read_pieces
from w2vbert_asr.errors import ConfigError
from w2vbert_asr.features.fbank import FbankConfig, fbank
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.models.language_model import LanguageModelSteps
from w2vbert_asr.models.transducer import Transducer
from w2vbert_asr.scoring.calibration import Calibration
from w2vbert_asr.search import Fusion, Hypothesis, LanguageModel, SearchConfig, exact_log_probs, fuse, search
from w2vbert_asr.search.ctc_alignment import ctc_alignment
from w2vbert_asr.text import arpa
from w2vbert_asr.text.kenlm_model import KenLMModel, is_kenlm
from w2vbert_asr.text.ngram import NGramModel
from w2vbert_asr.text.tokenizer import Tokenizer

FRAME_SECONDS = 0.04  # of an encoder frame
_MIN_FRAMES = 1
_PIECES_AT_ONCE = 4  # of a long recording


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of a transcript.

    start, end: seconds. The times of word pieces (see `Transcript`) are near their sounds, not where these begin and
    end: a word starts with the frame of its first piece and ends where the next one starts (and one frame after its own
    last piece at least), so a pause belongs to the word before it; the last one ends one frame after its last piece.
    confidence: in [0, 1], see `confidence`.
    """

    word: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """text: the words. tokens: word pieces. times: seconds of each. score: natural log probability. words: each
    with its times and confidence.

    A model with a CTC head (`ctc_weight`) has the times from CTC's best alignment of the tokens; one without has the
    frames at which the transducer emitted them, which may be long before their sounds: nothing tells it to wait.
    """

    text: str
    tokens: tuple[str, ...]
    times: tuple[float, ...]
    score: float
    words: tuple[Word, ...]


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """What was found in an utterance: hypotheses, best first, and the best one's transcript."""

    transcript: Transcript
    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True, kw_only=True)
class Recognizer:
    """A transducer with its features, word pieces and search. Not thread-safe: use one for each thread."""

    model: Transducer
    tokenizer: Tokenizer
    stats: FeatureStats
    device: torch.device
    config: SearchConfig
    digest: str = ""  # of the model folder that it was read from
    calibration: Calibration | None = None  # of confidences
    fusion: Fusion | None = None

    def transcribe(
        self, audio: str | Path | np.ndarray | Tensor, sample_rate: int | None = None, max_seconds: float = 30.0
    ) -> Transcript:
        """The best transcript of a file, or of samples in [-1, 1] at `sample_rate`: (N,) or (N, channels).

        A file may have any format, rate and channel count that soundfile reads. What is longer than `max_seconds` is
        cut where it is quietest and read as it goes, so memory does not grow with its length; the score is the sum over
        its pieces. AudioError for a file that cannot be used.
        """
        rate = FbankConfig().sample_rate
        if isinstance(audio, str | Path):
            pieces = read_pieces(Path(audio), rate, max_seconds)
        else:
            if sample_rate is None:
                raise ConfigError("transcribe: samples need their sample_rate in Hz")
            samples = np.asarray(audio, dtype=np.float32)
            samples = samples.mean(axis=1) if samples.ndim == 2 else samples
            pieces = cut([resample(samples, sample_rate, rate)], rate, max_seconds)
        found: list[tuple[float, Transcript]] = []
        while several := list(itertools.islice(pieces, _PIECES_AT_ONCE)):
            feats = [fbank(torch.from_numpy(piece.samples), rate) for piece in several]
            transcripts = [one.transcript for one in self.recognize(feats)]
            found += [(piece.start / rate, one) for piece, one in zip(several, transcripts, strict=True)]
        return _join(found)

    def decode(self, feats: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """N-best hypotheses, best first, of some utterances' raw filterbanks (T, F), decoded as one batch."""
        return [list(one.hypotheses) for one in self.recognize(feats)]

    def recognize(self, feats: Sequence[Tensor]) -> list[Recognized]:
        """`decode`, with the transcript of each utterance's best hypothesis."""
        silence = Hypothesis(tokens=(), score=0.0, times=(), capped=False)
        found = [Recognized(transcript=self._transcript([silence], (), ()), hypotheses=(silence,))] * len(feats)
        spoken = [index for index, one in enumerate(feats) if len(one) >= _MIN_FRAMES]
        if spoken:
            with torch.inference_mode():
                encoder_out, lens, ctc = self.model.encode_with_ctc(*self._padded([feats[index] for index in spoken]))
                several = search(self.model, encoder_out, lens, self.config, self.fusion)
                best = [own[0] for own in several]
                confidences = token_confidences(self.model, encoder_out, best)
                frames = [one.times for one in best]
                if ctc is not None:
                    aligned = ctc_alignment(ctc, lens, [one.tokens for one in best], self.model.blank_id)
                    frames = [one or emitted for one, emitted in zip(aligned, frames, strict=True)]
            for index, own, times, sure in zip(spoken, several, frames, confidences, strict=True):
                found[index] = Recognized(transcript=self._transcript(own, times, sure), hypotheses=tuple(own))
        return found

    def decode_with(
        self, feats: Sequence[Tensor], searches: Sequence[tuple[SearchConfig, Fusion | None]]
    ) -> Iterator[list[list[Hypothesis]]]:
        """What `decode` returns, for each of several searches in turn; the encoder runs once."""
        silence = [Hypothesis(tokens=(), score=0.0, times=(), capped=False)]
        spoken = [index for index, one in enumerate(feats) if len(one) >= _MIN_FRAMES]
        with torch.inference_mode():
            encoded = self._encode([feats[index] for index in spoken]) if spoken else None
        for config, fusion in searches:
            found = [silence] * len(feats)
            if encoded is not None:
                with torch.inference_mode():
                    own = search(self.model, *encoded, config, fusion)
                for index, hypotheses in zip(spoken, own, strict=True):
                    found[index] = hypotheses
            yield found

    def log_probs(self, feats: Sequence[Tensor], tokens: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """Exact natural log P, over all alignments, of each utterance's token sequences (ids), given raw filterbanks.

        Without a frame only the empty sequence is possible.
        """
        spoken = [index for index, one in enumerate(feats) if len(one) >= _MIN_FRAMES]
        found = [[-math.inf if ids else 0.0 for ids in own] for own in tokens]
        if spoken:
            with torch.inference_mode():
                encoder_out, lens = self._encode([feats[index] for index in spoken])
                values = exact_log_probs(self.model, encoder_out, lens, [tokens[index] for index in spoken])
                for index, own in zip(spoken, values, strict=True):
                    found[index] = own
        return found

    def _encode(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.model.encode(*self._padded(feats))

    def _padded(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Normalised features (B, T, F) and their lengths (B,)."""
        normalized = [self.stats.normalize(one) for one in feats]
        lens = torch.tensor([len(one) for one in normalized])
        padded = torch.nn.utils.rnn.pad_sequence(normalized, batch_first=True)
        return padded.to(self.device), lens.to(self.device)

    def _transcript(
        self, hypotheses: Sequence[Hypothesis], frames: Sequence[int], confidences: Sequence[float]
    ) -> Transcript:
        """The best hypothesis in words; frames, confidences: of its tokens."""
        best = hypotheses[0]
        words = self.tokenizer.words(best.tokens)
        starts = [frames[first] for _, first, _ in words]
        ends = [frames[last - 1] + 1 for _, _, last in words]
        ends = [max(own, following) for own, following in zip(ends, [*starts[1:], 0], strict=False)]
        said = [[word for word, _, _ in self.tokenizer.words(one.tokens)] for one in hypotheses]
        posteriors = word_posteriors(said, [one.score for one in hypotheses])
        return Transcript(
            text=self.tokenizer.decode(best.tokens),
            tokens=tuple(self.tokenizer.pieces(best.tokens)),
            times=tuple(_seconds(frame) for frame in frames),
            score=best.score,
            words=tuple(
                Word(
                    word=word,
                    start=_seconds(start),
                    end=_seconds(end),
                    confidence=self._calibrated(word_confidence(confidences[first:last], posterior)),
                )
                for (word, first, last), start, end, posterior in zip(words, starts, ends, posteriors, strict=True)
            ),
        )

    def _calibrated(self, confidence: float) -> float:
        return round(self.calibration.apply(confidence) if self.calibration else confidence, 4)


def _join(parts: Sequence[tuple[float, Transcript]]) -> Transcript:
    """The transcript of a recording from those of its pieces, each with the second at which it begins."""
    words = [
        dataclasses.replace(word, start=round(begin + word.start, 3), end=round(begin + word.end, 3))
        for begin, part in parts
        for word in part.words
    ]
    return Transcript(
        text=" ".join(part.text for _, part in parts if part.text),
        tokens=tuple(token for _, part in parts for token in part.tokens),
        times=tuple(round(begin + time, 3) for begin, part in parts for time in part.times),
        score=math.fsum(part.score for _, part in parts),
        words=tuple(words),
    )


def _seconds(frame: int) -> float:
    return round(frame * FRAME_SECONDS, 3)


def load_model(
    folder: str | Path,
    device: str = "auto",
    search: SearchConfig | None = None,
    calibration: Calibration | None = None,
    lm: str | Path | None = None,
    lodr: str | Path | None = None,
) -> Recognizer:
    """The recogniser of a model folder, or of an experiment's newest checkpoint.

    lm, lodr: a language model to add with search.lm_weight, an n-gram model to take away with search.lodr_weight.
    """
    saved = model_folder.read(Path(folder))
    chosen, config = pick_device(device), search or SearchConfig()
    model = saved.transducer().to(chosen)
    tokenizer = saved.tokenizer()
    models = [None if path is None else load_language_model(path, tokenizer, chosen) for path in (lm, lodr)]
    return Recognizer(
        model=model,
        tokenizer=tokenizer,
        stats=saved.stats,
        device=chosen,
        config=config,
        fusion=fuse(config, *models),
        digest=saved.digest,
        calibration=calibration,
    )


def load_language_model(path: str | Path, tokenizer: Tokenizer, device: torch.device) -> LanguageModel:
    """A model folder of `w2vbert lm`, or the n-gram model of an ARPA file or of a binary file of KenLM; over the
    tokenizer's word pieces. SetupError for a binary file without the package kenlm.
    """
    if Path(path).is_dir():
        saved = model_folder.read(Path(path))
        model = saved.language_model().to(device)
        if saved.tokenizer().digest != tokenizer.digest:
            raise ConfigError(f"{path}: was trained with other word pieces; train it with the transducer's bpe.model")
        return LanguageModelSteps(model)
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return KenLMModel(path, pieces, device) if is_kenlm(path) else NGramModel(arpa.read(path, pieces), device)


def pick_device(name: str) -> torch.device:
    """cpu, cuda, or auto: cuda where there is one. ConfigError for anything else."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch finds no CUDA device here; use --device cpu, or see `w2vbert doctor`")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
