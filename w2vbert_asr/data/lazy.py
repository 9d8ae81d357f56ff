"""Sequences whose items are made when they are asked for, so that a million of them are no million objects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
_AT_ONCE = 10_000  # strings


class Lazy(Sequence[T]):
    """`length` items; number i is `make(i)`, made anew each time."""

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._numbers, self._make = range(length), make

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, slice):
            return [self._make(one) for one in self._numbers[number]]
        return self._make(self._numbers[number])


@dataclass(frozen=True)
class Strings:
    """N strings, one after another in UTF-8."""

    text: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int64]  # (N + 1,) number i is bytes bounds[i] to bounds[i + 1] - 1

    @classmethod
    def pack(cls, strings: Sequence[str]) -> Strings:
        """These strings."""
        text, bounds = bytearray(), np.zeros(len(strings) + 1, dtype=np.int64)
        for start in range(0, len(strings), _AT_ONCE):
            encoded = [one.encode() for one in strings[start : start + _AT_ONCE]]
            bounds[start + 1 : start + 1 + len(encoded)] = [len(one) for one in encoded]
            text += b"".join(encoded)
        return cls(np.frombuffer(text, dtype=np.uint8), np.cumsum(bounds))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, number: int) -> str:
        return self.text[self.bounds[number] : self.bounds[number + 1]].tobytes().decode()

    def between(self, start: int, end: int) -> list[str]:
        """Numbers `start` to `end` - 1, faster than one by one."""
        bounds = self.bounds[start : end + 1]
        text = self.text[bounds[0] : bounds[-1]].tobytes()
        return [text[first:last].decode() for first, last in itertools.pairwise((bounds - bounds[0]).tolist())]

    def equals(self, other: Strings) -> bool:
        """Whether they are the same strings."""
        return np.array_equal(self.bounds, other.bounds) and np.array_equal(self.text, other.text)
