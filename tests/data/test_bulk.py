"""Tables taken apart as a whole give what they give line by line, or nothing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from w2vbert_asr.data import columns
from w2vbert_asr.data.columns import Table
from w2vbert_asr.data.lazy import Strings

TABLES = ["wav.scp", "utt2spk", "utt2dur", "text", "feats.scp", "utt2num_frames", "utt2num_samples"]
CLEAN = {
    "wav.scp": b"a /x/a.wav\na-1 b c.flac\nb \xc3\xa9.wav\n",
    "utt2spk": b"a-1 a\na-2 a\nb-1 b\nb-2 a\n",
    "utt2dur": b"a 1.5\nb 0.0625\nc 12\nd 3.00000000000000044\n",
    "text": b"a\na-1 A B\nab \xe4\xbd\xa0 \xe5\xa5\xbd\nb C\n",
    "feats.scp": b"a f.ark:12\nb f.ark:99\n",
    "utt2num_frames": b"a 1\nb 123456789012345678\n",
    "utt2num_samples": b"a 16000\n",
}


def same(one: Table, other: Table) -> bool:
    """Equal in every id, value and type."""
    columns = [({"ids": table.ids, **table.columns}) for table in (one, other)]
    return list(columns[0]) == list(columns[1]) and all(map(same_column, columns[0].values(), columns[1].values()))


def same_column(one: object, other: object) -> bool:
    if isinstance(one, Strings) and isinstance(other, Strings):
        return one.equals(other)
    assert isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize("name", TABLES)
def test_a_clean_table_is_read_as_line_by_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CLEAN[name])
    found, expected = columns._clean(tmp_path / name), columns._any(tmp_path / name)
    assert found is not None and expected is not None and same(found, expected)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(TABLES),
    fields=st.lists(
        st.tuples(
            st.text("ab-é1", min_size=1, max_size=4),
            st.text(" \t", min_size=1, max_size=2) | st.just(" "),
            st.text("01.29e-_ab| \t\r\x0b\x7fé\u2028", max_size=5)
            | st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9})?", fullmatch=True),
        ),
        max_size=6,
    ),
    end=st.sampled_from(["\n", "\n", "\n", "", "\r\n", "\n\n"]),
    ordered=st.booleans(),
)
def test_whatever_the_bytes(
    tmp_path: Path, name: str, fields: list[tuple[str, str, str]], end: str, ordered: bool
) -> None:
    if ordered:
        fields = sorted({field[0]: field for field in fields}.values())
    (tmp_path / name).write_bytes(("\n".join("".join(field) for field in fields) + end).encode())
    found, expected = columns._clean(tmp_path / name), columns._any(tmp_path / name)
    assert found is None or (expected is not None and same(found, expected))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text", b""),
        ("text", b"a A"),
        ("text", b"a A\r\n"),
        ("text", b"\xef\xbb\xbfa A\n"),
        ("text", b"a \xff\n"),
        ("text", b"b B\na A\n"),
        ("text", b"a A\na B\n"),
        ("text", b"a  A\n"),
        ("text", b"a A \n"),
        ("text", b" a A\n"),
        ("text", b"a A\n\nb B\n"),
        ("text", b"a\tA\n"),
        ("text", b"a" * 300 + b" A\n"),
        ("wav.scp", b"a sox x.wav |\n"),
        ("wav.scp", b"a\n"),
        ("utt2spk", b"a b c\n"),
        ("utt2spk", b"a\nb b\n"),
        ("utt2dur", b"a 0\n"),
        ("utt2dur", b"a 1.2.3\n"),
        ("utt2dur", b"a nan\n"),
        ("utt2num_frames", b"a 0\n"),
        ("utt2num_frames", b"a 1.0\n"),
        ("utt2num_frames", b"a 9999999999999999999\n"),
        ("segments", b"a r 0 1\n"),
    ],
)
def test_what_is_unusual_is_left_to_the_line_by_line_reader(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert columns._clean(tmp_path / name) is None
