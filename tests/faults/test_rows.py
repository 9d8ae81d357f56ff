"""Every row of the list of faults has a test that bears its number, here or beside the module that it is about."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = {
    "d": range(1, 21),  # data directories
    "a": range(1, 12),  # audio
    "k": range(1, 5),  # what a corpus is made of
    "i": range(1, 7),  # decoding and scoring
    "t": range(1, 10),  # training
    "c": range(1, 16),  # checkpoints, resuming, signals
    "x": range(1, 7),  # several processes
    "s": range(1, 8),  # recipes, settings, hostile files
}
LATER = {"t05"}  # a codebook that is frozen: the alarm is not there yet


def test_every_row_has_a_test() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    tested = {
        row for name in re.findall(r"def (test_\w+)", sources) for row in re.findall(r"(?<=_)[a-z]\d\d(?=_)", name)
    }
    rows = {f"{kind}{number:02d}" for kind, numbers in ROWS.items() for number in numbers}
    assert sorted(rows - tested - LATER) == []
    assert sorted(LATER & tested) == []
