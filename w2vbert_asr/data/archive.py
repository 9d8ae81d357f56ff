"""Feature matrices in Kaldi archives (.ark), written through kaldiio, read without it where the matrix is plain.

`kaldiio.load_mat` would run a pipe and unpickle what an archive asks it to; only matrices are read here.
Dimension letters: T frames, F features.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO

import kaldiio
import numpy as np
import numpy.typing as npt

from w2vbert_asr.data.files import require_regular
from w2vbert_asr.errors import DataError

_HEADER = struct.Struct("<2s3scici")  # magic, kind, size of the next integer, rows, size of the next integer, columns
_ITEM_SIZES = {b"FM ": 4, b"DM ": 8}  # bytes of a value


def write_feats(file: IO[bytes], utt_id: str, feats: npt.NDArray[np.float32]) -> int:
    """Append (T, F) features to an open archive; returns the offset that belongs into feats.scp."""
    offset = file.tell() + len(utt_id.encode()) + 1
    kaldiio.save_ark(file, {utt_id: feats})
    return offset


def read_feats(reference: str, folder: Path, utt_id: str) -> npt.NDArray[np.float32]:
    """The (T, F) features at `reference` ("file.ark:123") of the feats.scp in `folder`.

    An archive that is not where feats.scp says is looked for beside it: a dump folder may be moved. Raises DataError
    with utt_id, file and offset for a missing or truncated archive, or an offset where no matrix begins.
    """
    name, _, digits = reference.rpartition(":")
    if not name or not digits.isdecimal():
        raise DataError(f"{folder / 'feats.scp'}: {utt_id}: {reference!r} is not file.ark:offset; run stage 1 again")
    path = folder / name if (folder / name).exists() else folder / Path(name).name
    size = require_regular(path).st_size
    try:
        with open(path, "rb") as file:
            return _read_matrix(file, int(digits), size)
    except ValueError as error:
        raise DataError(f"{path}: {utt_id}, offset {digits}: {error}; run stage 1 (`w2vbert fbank`) again") from error


def _read_matrix(file: io.BufferedReader, offset: int, size: int) -> npt.NDArray[np.float32]:
    file.seek(min(offset, size))
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(b"\0B"):
        raise ValueError(f"no matrix begins there, the file has {size} bytes")
    if header[2:4] == b"CM":  # compressed, by another toolkit
        file.seek(offset)
        return _read_compressed(file)
    _, kind, _, rows, _, columns = _HEADER.unpack(header)
    if kind not in _ITEM_SIZES or rows < 0 or columns < 1:
        raise ValueError("not a matrix of features")
    needed = rows * columns * _ITEM_SIZES[kind]
    if offset + _HEADER.size + needed > size:
        raise ValueError(f"{rows} x {columns} values claimed, the file ends after {size} bytes")
    values = np.empty((rows, columns), dtype=f"<f{_ITEM_SIZES[kind]}")
    if file.readinto(values.data) != needed:
        raise ValueError(f"{rows} x {columns} values claimed, the file has become shorter")
    return np.asarray(values, dtype=np.float32)


def _read_compressed(file: IO[bytes]) -> npt.NDArray[np.float32]:
    try:
        matrix = kaldiio.matio.read_matrix_or_vector(file)
    except (AssertionError, struct.error) as error:
        raise ValueError(f"a damaged compressed matrix ({error})") from error
    return np.ascontiguousarray(matrix, dtype=np.float32)
