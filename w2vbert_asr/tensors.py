"""Tensors from a safetensors file that may be damaged, or made to hurt."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from w2vbert_asr.errors import DataError

_HEADER_LIMIT = 16 << 20  # bytes; the names and shapes of a model with 3,000 tensors take half a megabyte


def load_tensors(path: Path, remedy: str = "bring the file back") -> dict[str, Tensor]:
    """All tensors of a file. Raises DataError for one that is missing, damaged, of another kind, or all header."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > _HEADER_LIMIT:
            raise DataError(
                f"{path}: claims a header of {size} bytes, at most {_HEADER_LIMIT} are read: damaged, or no "
                "safetensors file (pickles, such as .pt files, are never read); {remedy}"
            )
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as safetensors ({error}); {remedy}") from error
