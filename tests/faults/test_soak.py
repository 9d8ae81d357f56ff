"""FAULTS.md L1-L7, L10, L11 in their short forms, on toy models of the real commands: see tools/soak.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import soak
from w2vbert_asr.training.optimizer import Optimizers


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> soak.Toy:
    return soak.make_toy(tmp_path_factory.mktemp("soak"))


@pytest.mark.parametrize("mode", soak.MODES)
def test_l01_killed_runs_end_with_the_same_bytes(toy: soak.Toy, tmp_path: Path, mode: str) -> None:
    assert "all equal to the byte" in soak.kills(toy, tmp_path, mode, count=2)


def test_l01_a_planted_bug_is_found(toy: soak.Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Optimizers, "load_state", lambda *_: None)
    with pytest.raises(AssertionError, match=r"optimizer\.safetensors"):
        soak.points(toy, tmp_path, "finetune")


@pytest.mark.parametrize("mode", ["pretrain", "finetune"])
def test_l02_killed_at_each_point_of_the_real_trainings(toy: soak.Toy, tmp_path: Path, mode: str) -> None:
    assert "killed at each of 6 points" in soak.points(toy, tmp_path, mode)


def test_l03_i01_killed_decodings_end_with_the_same_bytes(toy: soak.Toy, tmp_path: Path) -> None:
    assert "equal to the byte" in soak.decode(toy, tmp_path, count=2)


def test_l04_s02_killed_in_every_stage(toy: soak.Toy, tmp_path: Path) -> None:
    assert "in 9 verbs, all" in soak.stages(toy, tmp_path, count=1)


def test_l05_changed_and_cut_checkpoints_are_found(toy: soak.Toy, tmp_path: Path) -> None:
    assert "all found" in soak.corruption(toy, tmp_path, changes=100, truncations=20)


def test_l06_preempted_again_and_again(toy: soak.Toy, tmp_path: Path) -> None:
    assert "equal to the byte" in soak.preemption(toy, tmp_path, cycles=3)


def test_l07_no_room_for_a_file(toy: soak.Toy, tmp_path: Path) -> None:
    assert "went on to equal bytes" in soak.disk(toy, tmp_path, limits=3)


def test_l08_defects_of_a_data_directory_are_found(toy: soak.Toy, tmp_path: Path) -> None:
    assert "all refused" in soak.validator(toy, tmp_path, count=300)


def test_l10_memory_and_files_stay(toy: soak.Toy, tmp_path: Path) -> None:
    assert "open files" in soak.leak(toy, tmp_path, steps=300)


def test_l11_c10_any_number_of_workers(toy: soak.Toy, tmp_path: Path) -> None:
    assert "equal to the byte" in soak.order(toy, tmp_path, (2,))
