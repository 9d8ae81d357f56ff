"""Transcripts in one form: Unicode NFC, no invisible characters, single spaces, one case where asked. No torch."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Literal, get_args

from w2vbert_asr.errors import ConfigError

Style = Literal["plain", "lower", "upper", "words"]

_JOINERS = "'\u2019-"  # kept inside a word by "words": don't, well-known


def normalize(text: str, style: Style = "plain") -> str:
    """`text` in NFC without control, zero-width and bidirectional characters, any run of white space one space.

    style: "plain" keeps case and punctuation; "lower" and "upper" change the case; "words" is lower case without
    punctuation, except apostrophes and hyphens inside a word. Applying it twice changes nothing more. Raises
    ConfigError for another style.
    """
    if style not in get_args(Style):
        raise ConfigError(f"normalize: unknown style {style!r}; one of {', '.join(get_args(Style))}")
    text = _visible(unicodedata.normalize("NFC", text))
    if style == "upper":
        text = text.upper()
    elif style != "plain":
        text = text.lower()
    if style == "words":
        text = _words(text)
    return " ".join(unicodedata.normalize("NFC", text).split())  # changing the case may decompose


def irregularities(text: str) -> Counter[str]:
    """How often `normalize(text)` mends what: decomposed, space (other than a blank), control, invisible."""
    found = Counter(kind for kind in map(_kind, text) if kind)
    if unicodedata.normalize("NFC", text) != text:
        found["decomposed"] += 1
    return found


def _kind(character: str) -> str:
    if character.isspace():
        return "" if character == " " else "space"
    category = unicodedata.category(character)
    return {"Cc": "control", "Cf": "invisible"}.get(category, "")


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    kinds = {character: _kind(character) for character in set(text)}
    return "".join(" " if kinds[c] == "space" else c for c in text if kinds[c] not in ("control", "invisible"))


def _words(text: str) -> str:
    """Letters, marks and digits, and what joins two of them."""
    kept = [c if unicodedata.category(c)[0] in "LMN" else " " for c in text]
    for i in range(1, len(text) - 1):
        if text[i] in _JOINERS and kept[i - 1] != " " and kept[i + 1] != " ":
            kept[i] = "'" if text[i] == "\u2019" else text[i]
    return "".join(kept)
