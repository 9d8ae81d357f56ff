"""Random numbers as a pure function of (seed, step, utterance, position): no state, any device, any batch shape.

A draw is the SplitMix64 finaliser (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", fig. 17)
of a key plus a counter. Keys are digests of (seed, step, utt_id, purpose); the counter is the place in the utterance,
so that padding, batching, ranks and workers change nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def draw_key(seed: int, step: int, utt_id: str, purpose: str) -> int:
    """A signed 64-bit key for the draws of one purpose in one utterance at one step."""
    digest = hashlib.blake2b(f"{seed}\0{step}\0{utt_id}\0{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def draw_keys(seed: int, step: int, utt_ids: Sequence[str], purpose: str, device: torch.device) -> Tensor:
    """(B,) int64 keys of a batch."""
    keys = torch.tensor([draw_key(seed, step, utt_id, purpose) for utt_id in utt_ids], dtype=torch.int64)
    return keys.to(device, non_blocking=True)


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """Uniform float32 in (0, 1), 23 bits each; `keys` and `counters` are int64 and broadcast."""
    x = keys + (counters + 1) * _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    x = x ^ _shift_right(x, 31)
    return to_unit_interval(_shift_right(x, 41))


def to_unit_interval(bits: Tensor) -> Tensor:
    """23-bit integers -> float32 strictly between 0 and 1: a 24th bit would round the largest to 1, and its log to
    0.
    """
    return (bits.to(torch.float32) + 0.5) * 2.0**-23


def normal(keys: Tensor, counters: Tensor) -> Tensor:
    """Standard normal float32 by the inverse distribution function."""
    return torch.erfinv(uniform(keys, counters) * 2.0 - 1.0) * math.sqrt(2.0)


def gumbel(keys: Tensor, counters: Tensor) -> Tensor:
    """Standard Gumbel float32: -log(-log(u))."""
    return -torch.log(-torch.log(uniform(keys, counters)))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
