"""Global mean and standard deviation of the features of a training set: F features, T frames."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from w2vbert_asr.errors import DataError
from w2vbert_asr.tensors import load_tensors

STD_FLOOR = 1e-2  # a bin that never changes (8 kHz audio has such) becomes 0, not rounding noise blown up


@dataclass(frozen=True, kw_only=True)
class FeatureSums:
    """Sums in float64, so that partial sums merge in any order to the same statistics (1e-6)."""

    count: int  # frames
    total: Tensor  # (F,) float64
    squares: Tensor  # (F,) float64

    @classmethod
    def of(cls, feats: Tensor) -> FeatureSums:
        """The sums of (T, F) features."""
        feats = feats.to(device="cpu", dtype=torch.float64)
        return cls(count=len(feats), total=feats.sum(dim=0), squares=feats.square().sum(dim=0))

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(
            count=self.count + other.count, total=self.total + other.total, squares=self.squares + other.squares
        )

    def stats(self) -> FeatureStats:
        """Mean and standard deviation over all frames. Raises DataError when there is none."""
        if self.count == 0:
            raise DataError("feature statistics: no frame at all; the data directory has no usable audio")
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return FeatureStats(mean=mean.float(), std=variance.sqrt().clamp(min=STD_FLOOR).float(), count=self.count)


@dataclass(frozen=True, kw_only=True)
class FeatureStats:
    """Mean and standard deviation of each feature, and over how many frames they were taken."""

    mean: Tensor  # (F,) float32
    std: Tensor  # (F,) float32, at least STD_FLOOR
    count: int

    @classmethod
    def accumulate(cls, feats: Iterable[Tensor]) -> FeatureStats:
        """The statistics of any number of (T, F) features. Raises DataError when there is no frame."""
        total: FeatureSums | None = None
        for item in feats:
            sums = FeatureSums.of(item)
            total = sums if total is None else total + sums
        if total is None:
            raise DataError("feature statistics: no utterance at all; the data directory has no usable audio")
        return total.stats()

    @classmethod
    def merge(cls, parts: Iterable[FeatureStats]) -> FeatureStats:
        """The statistics over the frames of all parts together."""
        sums = [part._sums() for part in parts]
        return functools.reduce(FeatureSums.__add__, sums).stats()

    def _sums(self) -> FeatureSums:
        mean, std = self.mean.double(), self.std.double()
        return FeatureSums(
            count=self.count, total=mean * self.count, squares=(std.square() + mean.square()) * self.count
        )

    def normalize(self, feats: Tensor) -> Tensor:
        """(..., F) -> (..., F) with mean 0 and standard deviation 1 over the training set."""
        return (feats - self.mean.to(feats.device)) / self.std.to(feats.device)

    def to_bytes(self) -> bytes:
        """The safetensors file: mean, std and count."""
        tensors = {"mean": self.mean.contiguous(), "std": self.std.contiguous(), "count": torch.tensor(self.count)}
        return safetensors.torch.save(tensors)

    def save(self, path: Path) -> None:
        """Write `to_bytes` to `path`; a command does that beside the target and renames."""
        path.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> FeatureStats:
        """Read what `save` wrote. Raises DataError for a missing or damaged file."""
        tensors = load_tensors(path, "`w2vbert fbank --stats` makes it")
        try:
            mean, std, count = tensors["mean"], tensors["std"], int(tensors["count"])
        except KeyError as error:
            raise DataError(f"{path}: has no {error}; make it anew with `w2vbert fbank --stats`") from error
        if mean.ndim != 1 or mean.shape != std.shape or not bool(torch.isfinite(mean).all() and (std > 0).all()):
            raise DataError(f"{path}: damaged feature statistics; make them anew with `w2vbert fbank --stats`")
        return cls(mean=mean.float(), std=std.float(), count=count)
