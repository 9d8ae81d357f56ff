"""SpecAugment: where the masks may lie, how wide they are, how often they fall where."""

import numpy as np
import pytest
import torch

from w2vbert_asr.features.augment import SpecAugmentConfig, spec_augment

NONE = {"num_freq_masks": 0, "num_time_masks": 0}


def runs(flags: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    return [len(run) for run in "".join("x" if flag else " " for flag in flags).split()]


def draw(config: SpecAugmentConfig, shape: tuple[int, int], count: int) -> list[torch.Tensor]:
    """`count` masks, True where the features became 0."""
    rng = np.random.default_rng(0)
    return [spec_augment(torch.ones(shape), rng, config) == 0 for _ in range(count)]


def test_time_masks_are_whole_frames_of_at_most_the_ratio() -> None:
    config = SpecAugmentConfig(**NONE | {"num_time_masks": 1})
    widths = []
    for mask in draw(config, (200, 80), 2000):
        assert torch.equal(mask.all(dim=1), mask.any(dim=1))
        widths += runs(mask[:, 0]) or [0]
    counts = np.bincount(widths)
    assert len(counts) == 11  # 5 % of 200 frames, and none
    assert np.abs(counts - 2000 / 11).max() < 5 * np.sqrt(2000 / 11)


def test_frequency_masks_are_whole_rows_of_at_most_the_width() -> None:
    config = SpecAugmentConfig(**NONE | {"num_freq_masks": 1})
    widths = []
    for mask in draw(config, (9, 80), 2000):
        assert torch.equal(mask.all(dim=0), mask.any(dim=0))
        widths += runs(mask[0]) or [0]
    assert max(widths) == 27 and min(widths) == 0 and abs(np.mean(widths) - 13.5) < 0.6


def test_every_place_is_reached() -> None:
    config = SpecAugmentConfig()
    hits = torch.stack(draw(config, (100, 80), 500)).float().mean(dim=0)
    assert float(hits.min()) > 0.05 and float(hits.max()) < 0.75


def test_expected_share_of_one_time_mask() -> None:
    """The mean width is 2.5 % of the utterance; ten masks overlap as independent ones do."""
    masks = torch.stack(draw(SpecAugmentConfig(**NONE | {"num_time_masks": 10}), (400, 1), 2000)).float()
    assert float(masks.mean()) == pytest.approx(1 - (1 - 0.025) ** 10, abs=0.01)


def test_adaptive_number_of_time_masks() -> None:
    config = SpecAugmentConfig(**NONE | {"num_time_masks": 10, "time_mask_ratio": 0.02, "time_mask_rate": 0.01})
    for num_frames, most in ((99, 0), (250, 2), (3000, 10)):
        found = [len(runs(mask[:, 0])) for mask in draw(config, (num_frames, 1), 100)]
        assert max(found) == most


def test_the_generator_decides_and_the_input_stays() -> None:
    feats = torch.randn(300, 80, generator=torch.Generator().manual_seed(0))
    before = feats.clone()
    once, again, other = (spec_augment(feats, np.random.default_rng(seed), SpecAugmentConfig()) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other) and torch.equal(feats, before)
    assert torch.equal(once[once != 0], feats[once != 0])


def test_no_masks_and_tiny_utterances() -> None:
    feats = torch.ones(50, 80)
    assert torch.equal(spec_augment(feats, np.random.default_rng(0), SpecAugmentConfig(**NONE)), feats)
    for shape in ((0, 80), (1, 80), (1, 1)):
        assert spec_augment(torch.ones(shape), np.random.default_rng(0), SpecAugmentConfig()).shape == shape


def test_configuration_says_what_is_wrong() -> None:
    assert SpecAugmentConfig().problems() == []
    assert len(SpecAugmentConfig(num_freq_masks=-1, time_mask_ratio=1.5).problems()) == 2
