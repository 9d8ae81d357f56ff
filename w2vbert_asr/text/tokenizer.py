"""SentencePiece word pieces: the token ids are the piece ids, 0 is `<blank>`, 1 is `<unk>`, there is no bos or eos."""

from __future__ import annotations

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import sentencepiece

from w2vbert_asr.errors import ConfigError, DataError

BLANK_ID = 0
BLANK_PIECE = "<blank>"
_WORD_BEGINS = "\u2581"
UNK_ID = 1
UNK_SURFACE = "\u2047"  # what <unk> decodes to, without spaces: one unknown character does not cut a word in three

_log = logging.getLogger(__name__)


class Tokenizer:
    """A trained word-piece model. Raises DataError when `path` is missing or is not such a model."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            model = self.path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); `w2vbert tokenizer` (stage 2) makes it"
            ) from error
        self._processor = _processor(model, str(path))
        self.digest = hashlib.sha256(model).hexdigest()
        self.blank_id = BLANK_ID

    @property
    def vocab_size(self) -> int:
        """Pieces, with `<blank>` and `<unk>`."""
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Piece ids; a character outside the vocabulary becomes `<unk>`, an empty text no piece."""
        return list(self._processor.encode(text, out_type=int))

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of pieces of each text."""
        return [len(ids) for ids in self._processor.encode(list(texts), out_type=int, num_threads=1)]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of piece ids, one space between; `<blank>` is nothing. Inverse of `encode` for known characters."""
        return " ".join(str(self._processor.decode([int(index) for index in ids])).split())

    def words(self, ids: Sequence[int]) -> list[tuple[str, int, int]]:
        """The words of `decode`, each with its first piece and the one behind its last, as places in `ids`.

        A piece that is only the beginning of a word belongs to that word.
        """
        found: list[tuple[str, int, int]] = []
        word, first, last = "", 0, 0
        for place, index in enumerate(ids):
            surface = UNK_SURFACE if index == UNK_ID else "" if index == BLANK_ID else self.pieces([index])[0]
            for character in surface.replace(_WORD_BEGINS, " "):
                if not character.isspace():
                    word, last = word + character, place + 1
                elif word:
                    found.append((word, first, last))
                    word, first = "", max(last, place)
        return [*found, (word, first, last)] if word else found

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces as they are written; U+2581 begins a word."""
        return [str(self._processor.id_to_piece(int(index))) for index in ids]


def train(texts: Iterable[str], vocab_size: int, model_type: Literal["bpe", "unigram"] = "bpe") -> bytes:
    """The model file of word pieces for `texts`; the same bytes for the same texts in the same order.

    `vocab_size` is a soft limit: at least every character is a piece, at most what the text supports, with a note in
    the log when that differs. Raises DataError without any text, ConfigError for a size below 1.
    """
    if vocab_size < 1:
        raise ConfigError(f"vocab_size: {vocab_size} is not positive; use 30 for small corpora, 1024 for large ones")
    lines = [line for line in (" ".join(text.split()) for text in texts) if line]
    if not lines:
        raise DataError("tokenizer: the transcripts are empty; give --text files with at least one word")
    needed = len(set("".join(lines)) - {" "}) + 3  # each character, the word boundary, <blank> and <unk>
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=writer,
        model_type=model_type,
        vocab_size=max(vocab_size, needed),
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",  # text is normalised before; references stay as they are
        max_sentence_length=max(64, *(len(line.encode()) + 1 for line in lines)),  # longer lines would be left out
        pad_id=BLANK_ID,
        pad_piece=BLANK_PIECE,
        unk_id=UNK_ID,
        unk_surface=UNK_SURFACE,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,  # determinism
        minloglevel=2,
    )
    size = _processor(writer.getvalue(), "the trained model").get_piece_size()
    if size != vocab_size:
        reason = "every character needs a piece" if size > vocab_size else "the text supports no more"
        _log.warning("tokenizer: %d word pieces instead of %d: %s", size, vocab_size, reason)
    return writer.getvalue()


def unseen_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, int]:
    """Character -> how often it is in `texts`, for those that are only `<unk>` to the tokenizer; by code point."""
    counts = Counter(character for text in texts for character in text if not character.isspace())
    return {character: counts[character] for character in sorted(counts) if UNK_ID in tokenizer.encode(character)}


def _processor(model: bytes, where: str) -> sentencepiece.SentencePieceProcessor:
    remedy = "make it with `w2vbert tokenizer` (stage 2)"
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise DataError(f"{where}: not a SentencePiece model ({error}); {remedy}") from error
    if processor.get_piece_size() < 3 or processor.id_to_piece(BLANK_ID) != BLANK_PIECE or processor.unk_id() != UNK_ID:
        raise DataError(f"{where}: piece 0 must be {BLANK_PIECE} and piece 1 <unk>; {remedy}")
    return processor
