"""`w2vbert ngram`: an n-gram model over word pieces, as an ARPA file."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.data.texts import read_lines, read_transcripts
from w2vbert_asr.errors import DataError
from w2vbert_asr.text import arpa
from w2vbert_asr.text.kneser_ney import train
from w2vbert_asr.text.ngram import NGramModel, perplexity
from w2vbert_asr.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """text: Kaldi text files. lines: plain text, a sentence a line (.gz is decompressed), in the form of the
    transcripts. dev: Kaldi text files whose perplexity is reported. held_out: data directories whose speakers
    are left out of `text`."""

    tokenizer: Path
    out: Path
    text: tuple[Path, ...] = ()
    lines: tuple[Path, ...] = ()
    held_out: tuple[Path, ...] = ()
    dev: tuple[Path, ...] = ()
    order: int = 4

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if self.text or self.lines else ["text: no file; give --text with transcripts, or --lines"]
        if not 1 <= self.order <= 16:
            found.append(f"order: expected 1 to 16, found {self.order}")
        return found


def run(config: Config) -> dict[str, object]:
    """Count, smooth, and write the file, whole or not at all."""
    tokenizer = Tokenizer(config.tokenizer)
    transcripts, dev_texts = read_transcripts(config.text, config.dev, held_out=config.held_out)
    dev = [ids for ids in map(tokenizer.encode, dev_texts) if ids]
    if config.dev and not dev:
        raise DataError(f"{', '.join(map(str, config.dev))}: no words; give a text file with transcripts")
    texts = itertools.chain(transcripts, read_lines(config.lines))
    ngrams = train((tokenizer.encode(" ".join(text.split())) for text in texts), tokenizer.vocab_size, config.order)
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    with atomic_write(config.out) as handle:
        arpa.write(handle, ngrams, pieces)
    counts = [len(level.keys) for level in ngrams.levels]
    result: dict[str, object] = {"out": str(config.out), "ngrams": counts}
    shown = f"{config.out}: {', '.join(f'{count} {order}-grams' for order, count in enumerate(counts, 1))}"
    if dev:
        result["perplexity"] = round(perplexity(NGramModel(ngrams), dev), 4)
        shown += f"; perplexity of dev, a word piece: {result['perplexity']:.2f}"
    print(shown)
    return result
