"""Sums and counts that add up, over micro-batches, steps and ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from w2vbert_asr.losses.output import LossOutput
from w2vbert_asr.training.distributed import World, gather_bytes

_LOSS = "loss/"


class Sums:
    """name -> (sum, count) in float64, on the device until they are read, so that adding never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add to one metric."""
        pair = torch.stack([self._number(total), self._number(count)])
        known = self._sums.get(name)
        self._sums[name] = pair if known is None else known + pair

    def add_output(self, output: LossOutput) -> None:
        """Add the terms and statistics of a micro-batch; `loss` is the weighted sum of the terms' means."""
        for name, term in output.terms.items():
            self.add(name, term.total, term.count)
            self.add(_LOSS + name, term.total.detach() * term.weight, term.count)
        for name, (total, count) in output.stats.items():
            self.add(name, total, count)

    def take(self, world: World) -> dict[str, float]:
        """The means over all ranks since the last time, `loss` first; then start anew."""
        mine = {name: pair.tolist() for name, pair in self._sums.items()}
        self._sums = {}
        return means([json.loads(one) for one in gather_bytes(json.dumps(mine).encode(), world)])

    def state(self) -> dict[str, Tensor]:
        """The sums of this rank, for a checkpoint between two log lines."""
        return dict(self._sums)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the sums of a checkpoint."""
        self._sums = {name: pair.to(self._device, copy=True) for name, pair in state.items()}

    def _number(self, value: Tensor | float) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().to(self._device, torch.float64)
        return torch.tensor(value, dtype=torch.float64, device=self._device)


def means(sums: Iterable[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """The means of sums and counts added in the given order, by name (`loss` first); what has no count is left out."""
    added: dict[str, tuple[float, float]] = {}
    for one in sums:
        for name, (total, count) in one.items():
            before = added.get(name, (0.0, 0.0))
            added[name] = (before[0] + total, before[1] + count)
    mean = {name: total / count for name, (total, count) in sorted(added.items()) if count}
    parts = [value for name, value in mean.items() if name.startswith(_LOSS)]
    loss = {"loss": sum(parts)} if parts else {}
    return loss | {name: value for name, value in mean.items() if not name.startswith(_LOSS)}
