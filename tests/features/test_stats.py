"""Statistics against the plain formula in float64, in any order and any split."""

from pathlib import Path

import numpy as np
import pytest
import torch

from w2vbert_asr.errors import DataError
from w2vbert_asr.features.stats import STD_FLOOR, FeatureStats, FeatureSums


def utterances(count: int = 40) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 300, (count,), generator=rng).tolist()
    return [torch.randn(n, 5, generator=rng) * torch.tensor([0.5, 1, 2, 3, 4]) - 15 for n in lengths]


def test_equal_the_formula() -> None:
    feats = utterances()
    everything = torch.cat(feats).double().numpy()
    stats = FeatureStats.accumulate(feats)
    assert stats.count == len(everything)
    np.testing.assert_allclose(stats.mean, everything.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats.std, everything.std(axis=0), rtol=1e-6)


def test_order_and_grouping_do_not_matter() -> None:
    feats = utterances()
    forward = FeatureStats.accumulate(feats)
    backward = FeatureStats.accumulate(feats[::-1])
    halves = sum((FeatureSums.of(item) for item in feats[20:]), FeatureSums.of(torch.cat(feats[:20]))).stats()
    for other in (backward, halves):
        np.testing.assert_allclose(other.mean, forward.mean, rtol=1e-6)
        np.testing.assert_allclose(other.std, forward.std, rtol=1e-6)


def test_merged_parts_equal_the_whole() -> None:
    feats = utterances()
    whole = FeatureStats.accumulate(feats)
    merged = FeatureStats.merge(FeatureStats.accumulate(part) for part in (feats[:3], feats[3:30], feats[30:]))
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(merged.std, whole.std, rtol=1e-4)


def test_normalized_features_have_mean_0_and_deviation_1() -> None:
    feats = utterances()
    normalized = FeatureStats.accumulate(feats).normalize(torch.cat(feats))
    np.testing.assert_allclose(normalized.mean(dim=0), 0, atol=1e-4)
    np.testing.assert_allclose(normalized.std(dim=0, correction=0), 1, atol=1e-4)


def test_a_bin_that_never_changes_becomes_0() -> None:
    feats = torch.full((100, 2), -15.9424)
    stats = FeatureStats.accumulate([feats])
    assert float(stats.std.min()) == pytest.approx(STD_FLOOR)
    assert float(stats.normalize(feats).abs().max()) < 1e-3


def test_save_and_load(tmp_path: Path) -> None:
    stats = FeatureStats.accumulate(utterances())
    stats.save(tmp_path / "feature_stats.safetensors")
    loaded = FeatureStats.load(tmp_path / "feature_stats.safetensors")
    assert torch.equal(loaded.mean, stats.mean) and torch.equal(loaded.std, stats.std) and loaded.count == stats.count


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-3], lambda data: data.replace(b"mean", b"mode")]
)
def test_damaged_files_are_named(tmp_path: Path, damage) -> None:
    path = tmp_path / "feature_stats.safetensors"
    path.write_bytes(damage(FeatureStats.accumulate(utterances()).to_bytes()))
    with pytest.raises(DataError, match=r"feature_stats\.safetensors.*--stats"):
        FeatureStats.load(path)


def test_missing_and_empty() -> None:
    with pytest.raises(DataError, match=r"nowhere.*--stats"):
        FeatureStats.load(Path("nowhere"))
    with pytest.raises(DataError, match="no utterance"):
        FeatureStats.accumulate([])
    with pytest.raises(DataError, match="no frame"):
        FeatureStats.accumulate([torch.zeros(0, 5)])
