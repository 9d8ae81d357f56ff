"""Which token was emitted after which, and when: a tree that grows at its tips and is read once, at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROOT_NODE = -1


@dataclass(frozen=True)
class Emissions:
    """The tokens of one path, and the frames that emitted them."""

    tokens: tuple[int, ...]
    frames: tuple[int, ...]


class Trace:
    """A node stands for one emission and for all that came before it; ROOT_NODE for nothing."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []  # (3, n) each: parent node, token, frame
        self.size = 0

    def emit(self, parents: Tensor, tokens: Tensor, frames: Tensor) -> Tensor:
        """Tokens (N,) at `frames` (N,) after the nodes `parents` (N,) -> new nodes (N,)."""
        self.parts.append(torch.stack([parents, tokens, frames]))
        nodes = torch.arange(self.size, self.size + len(tokens), device=tokens.device)
        self.size += len(tokens)
        return nodes

    def read(self, nodes: list[list[int]]) -> list[list[Emissions]]:
        """The path to each of `nodes`."""
        parents, tokens, frames = torch.cat(self.parts, 1).tolist() if self.parts else ([], [], [])

        def emissions(node: int) -> Emissions:
            path = []
            while node != ROOT_NODE:
                path.append(node)
                node = parents[node]
            path.reverse()
            return Emissions(tuple(tokens[node] for node in path), tuple(frames[node] for node in path))

        return [[emissions(node) for node in row] for row in nodes]
