"""One form of a transcript; nothing else changes."""

import subprocess
import sys

import pytest

from w2vbert_asr.errors import ConfigError
from w2vbert_asr.text.normalize import irregularities, normalize

CASES = [
    ("HELLO  World", "plain", "HELLO World"),
    (" a\u00a0b\tc\u2003d\r\n", "plain", "a b c d"),
    ("cafe\u0301", "plain", "caf\u00e9"),
    ("a\u200bb\u200dc\ufeff\u202ed\u0007", "plain", "abcd"),
    ("ﬁne \u2460", "plain", "ﬁne \u2460"),
    ("\u00c4PFEL", "lower", "\u00e4pfel"),
    ("stra\u00dfe", "upper", "STRASSE"),
    ("\u0130", "lower", "i\u0307"),
    ("Don\u2019t, well-known \u2014 'quoted' (3.5) end-", "words", "don't well-known quoted 3 5 end"),
    ("\u0939\u093f\u0928\u094d\u0926\u0940!", "words", "\u0939\u093f\u0928\u094d\u0926\u0940"),
    ("\u200b \u0000", "plain", ""),
    ("", "words", ""),
]


@pytest.mark.parametrize(("text", "style", "expected"), CASES)
def test_normalize(text: str, style: str, expected: str) -> None:
    assert normalize(text, style) == expected
    assert normalize(expected, style) == expected


def test_irregularities_are_what_normalize_mends() -> None:
    text = "a\u00a0b\tc cafe\u0301 \u200b\u202e\u0001"
    assert irregularities(text) == {"space": 2, "decomposed": 1, "invisible": 2, "control": 1}
    assert irregularities(normalize(text)) == {}
    assert irregularities("PLAIN TEXT") == {}


def test_unknown_style() -> None:
    with pytest.raises(ConfigError, match=r"'loud'.*plain, lower"):
        normalize("a", "loud")


def test_starts_without_torch() -> None:
    code = "import sys, w2vbert_asr.text.normalize; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
