"""`w2vbert tokenizer`: train the word-piece model on transcripts (stage 2)."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.data.source import find_whole, write_source
from w2vbert_asr.data.texts import read_transcripts
from w2vbert_asr.text.tokenizer import Tokenizer, train, unseen_characters

FORMAT = 1  # raise it when the same texts would give another model

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Stage 2. `text` is of the training set only: nothing of dev or test may shape the vocabulary."""

    text: tuple[Path, ...]
    out: Path
    vocab_size: int = 1024  # a soft limit; 30 to 60 for small corpora
    model_type: Literal["bpe", "unigram"] = "bpe"
    check: tuple[Path, ...] = ()  # transcripts whose characters that training never saw are reported

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if self.text else ["text: no file; give --text with the transcripts of the training set"]
        if self.vocab_size < 1:
            found.append(f"vocab_size: {self.vocab_size} is not positive")
        return found


def run(config: Config) -> dict[str, object]:
    """Write `bpe.model` and `vocab.txt` (a piece a line, in the order of their ids) into `config.out`."""
    texts, others = read_transcripts(config.text, config.check)
    options = [FORMAT, config.vocab_size, config.model_type]
    digest = hashlib.sha256(json.dumps([options, texts]).encode()).hexdigest()
    summary = find_whole(config.out, digest)
    made = summary is None
    if summary is None:
        model = train(texts, config.vocab_size, config.model_type)
        with atomic_dir(config.out) as folder:
            (folder / "bpe.model").write_bytes(model)
            tokenizer = Tokenizer(folder / "bpe.model")
            pieces = tokenizer.pieces(range(tokenizer.vocab_size))
            (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
            summary = {"out": str(config.out), "vocab_size": len(pieces), "digest": tokenizer.digest}
            write_source(folder, digest, summary)
    unseen = unseen_characters(Tokenizer(config.out / "bpe.model"), others)
    if unseen:
        shown = ", ".join(f"{character!r} {count} times" for character, count in unseen.items())
        _log.warning("characters that no training text has; they decode to none of these: %s", shown)
    print(f"{config.out}: {summary['vocab_size']} word pieces" + ("" if made else ", made before from the same texts"))
    return {**summary, "unseen": unseen, "made": made}
