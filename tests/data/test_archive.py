"""Archives: what kaldiio writes is read back, what is damaged is named, what would run code is refused."""

from pathlib import Path

import kaldiio
import numpy as np
import pytest

from w2vbert_asr.data.archive import read_feats, write_feats
from w2vbert_asr.errors import DataError

RNG = np.random.default_rng(0)
MATRICES = {f"utt-{n}": RNG.standard_normal((n, 80)).astype(np.float32) for n in (1, 7, 300)} | {
    "r\u00e9union": RNG.standard_normal((5, 3)).astype(np.float32)
}


def write(path: Path) -> dict[str, int]:
    with open(path, "wb") as file:
        return {utt_id: write_feats(file, utt_id, feats) for utt_id, feats in MATRICES.items()}


def test_read_back_here_and_by_kaldiio(tmp_path: Path) -> None:
    offsets = write(tmp_path / "feats.1.ark")
    for utt_id, offset in offsets.items():
        reference = f"{tmp_path}/feats.1.ark:{offset}"
        np.testing.assert_array_equal(read_feats(reference, tmp_path, utt_id), MATRICES[utt_id])
        np.testing.assert_array_equal(kaldiio.load_mat(reference), MATRICES[utt_id])
    whole = dict(kaldiio.load_ark(str(tmp_path / "feats.1.ark")))
    assert list(whole) == list(MATRICES)


def test_a_moved_folder_is_found(tmp_path: Path) -> None:
    offsets = write(tmp_path / "feats.1.ark")
    for folder in ("/nowhere/dump/train/", "dump/train/", ""):
        found = read_feats(f"{folder}feats.1.ark:{offsets['utt-7']}", tmp_path, "utt-7")
        np.testing.assert_array_equal(found, MATRICES["utt-7"])


@pytest.mark.parametrize(("dtype", "compression", "tolerance"), [("d", None, 1e-7), ("f", 2, 0.05), ("f", 3, 1e-3)])
def test_archives_of_other_toolkits(tmp_path: Path, dtype: str, compression: int | None, tolerance: float) -> None:
    matrix = MATRICES["utt-300"].astype(dtype)
    kaldiio.save_ark(str(tmp_path / "a.ark"), {"utt": matrix}, compression_method=compression)
    found = read_feats("a.ark:4", tmp_path, "utt")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, matrix, atol=tolerance)


def test_truncated_at_every_place(tmp_path: Path) -> None:
    """Never a shorter matrix, never a raw error."""
    offset = write(tmp_path / "whole.ark")["utt-7"]
    content = (tmp_path / "whole.ark").read_bytes()
    end = offset + 15 + 7 * 80 * 4
    for size in [*range(offset, offset + 20), end - 1]:
        (tmp_path / "cut.ark").write_bytes(content[:size])
        with pytest.raises(DataError, match=rf"cut\.ark: utt-7, offset {offset}: .*stage 1"):
            read_feats(f"cut.ark:{offset}", tmp_path, "utt-7")
    (tmp_path / "cut.ark").write_bytes(content[:end])
    np.testing.assert_array_equal(read_feats(f"cut.ark:{offset}", tmp_path, "utt-7"), MATRICES["utt-7"])


@pytest.mark.parametrize("offset", [0, 1, 60, 10**6, 10**17])
def test_wrong_offsets(tmp_path: Path, offset: int) -> None:
    write(tmp_path / "feats.1.ark")
    with pytest.raises(DataError, match=rf"utt-1, offset {offset}: no matrix begins there"):
        read_feats(f"feats.1.ark:{offset}", tmp_path, "utt-1")


@pytest.mark.parametrize(
    "content", [b"PKL\x80\x04K\x01.", b"NPY" + b"\0" * 40, b"\0BFM \4\xff\xff\xff\x7f\4\xff\xff\xff\x7f"]
)
def test_foreign_and_absurd_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ark").write_bytes(content + b"\0" * 20)
    with pytest.raises(DataError, match="offset 0"):
        read_feats("a.ark:0", tmp_path, "utt")


@pytest.mark.parametrize("reference", ["touch ran |", "a.ark", "a.ark:12[0:5]", "a.ark:-3", ":5", ""])
def test_references_that_are_none(tmp_path: Path, reference: str) -> None:
    with pytest.raises(DataError, match=r"feats\.scp: utt: .*file\.ark:offset"):
        read_feats(reference, tmp_path, "utt")


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"feats\.9\.ark"):
        read_feats("/nowhere/feats.9.ark:4", tmp_path, "utt")
