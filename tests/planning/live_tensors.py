"""Memory counted tensor by tensor: every storage that an operation gives, from then on until it is freed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """now, peak: bytes of the storages that live, and the most that there have been."""

    def __init__(self, present: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._references: dict[int, weakref.ref[Any]] = {}
        for tensor in present:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place in self._references:
            return
        self._references[place] = weakref.ref(storage, lambda _: self._remove(place, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _remove(self, place: int, size: int) -> None:
        del self._references[place]
        self.now -= size
