"""What pre-training and fine-tuning share: statistics, starting weights, files, and the run itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from w2vbert_asr import model_folder
from w2vbert_asr.data.dataset import EvalLoader, TrainLoader
from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.errors import ConfigError, DataError, summarize
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.evaluation import Measure
from w2vbert_asr.training.optimizer import Part
from w2vbert_asr.training.run import TrainerConfig
from w2vbert_asr.training.trainer import TrainResult, train

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A training put together, before its first step.

    parts: of the parameters, each with its optimizer. resolved: the whole configuration as plain data. digests: of what
    else decides the run. prepare: writes the experiment's own files. measure: further metrics of a dev batch.
    """

    model: nn.Module
    loader: TrainLoader
    dev: EvalLoader
    parts: Mapping[str, Part]
    resolved: Mapping[str, Any]
    digests: Mapping[str, str]
    prepare: Callable[[], None]
    measure: Measure | None = None


def run(assembly: Assembly, trainer: TrainerConfig, out: Path, world: World) -> TrainResult:
    """Train it in `out`, from where that stands."""
    return train(
        assembly.model,
        assembly.loader,
        assembly.dev,
        config=trainer,
        optimizers=assembly.parts,
        out=out,
        resolved=assembly.resolved,
        digests=assembly.digests,
        measure=assembly.measure,
        prepare=assembly.prepare,
        world=world,
    )


def training_stats(train: Sequence[Path]) -> FeatureStats:
    """Mean and standard deviation over the training directories that have `feature_stats.safetensors` (stage 1)."""
    for folder in train:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such data directory; stage 1 (`w2vbert fbank`) makes those of dump/")
    found = [folder / model_folder.STATS for folder in train if (folder / model_folder.STATS).is_file()]
    if not found:
        raise DataError(
            f"{train[0] / model_folder.STATS}: missing; stage 1 (`w2vbert fbank --stats`) makes it for a training set"
        )
    return FeatureStats.merge(FeatureStats.load(path) for path in found)


def load_parts(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    parts: Sequence[str],
    source: str,
    left_out: Collection[str] = (),
) -> dict[str, object]:
    """Copy the weights of `parts` (first components of their names) into the model; report every name.

    left_out: names within these parts that are wanted to start fresh. ConfigError lists what does not fit within the
    parts; names outside of them are reported as skipped.
    """
    chosen = {name: tensor for name, tensor in weights.items() if name.split(".")[0] in parts and name not in left_out}
    absent = [part for part in parts if not any(name.split(".")[0] == part for name in chosen)]
    report = model_folder.match(model, chosen)
    wrong = [f"{name}: {reason}" for name, reason in report.skipped.items()]
    wrong += [f"{part}: no weight of that part" for part in absent]
    wrong += [
        f"{name}: missing there" for name in report.missing if name.split(".")[0] in parts and name not in weights
    ]
    if wrong:
        raise ConfigError(
            f"{source}: its weights do not fit this model:\n{summarize(wrong)}\n"
            "  use the same encoder sizes (and the same word pieces), or load fewer parts: "
            "--set init_parts=[encoder]"
        )
    with torch.no_grad():
        state = model.state_dict()
        for name in report.loaded:
            state[name].copy_(chosen[name])
    skipped = sorted(set(weights) - set(report.loaded))
    fresh = sorted(name for name in model.state_dict() if name not in report.loaded)
    _log.info("%s: loaded %d weights, skipped %d, %d start fresh", source, len(report.loaded), len(skipped), len(fresh))
    return {"source": source, "loaded": sorted(report.loaded), "skipped": skipped, "fresh": fresh}


def write_files(out: Path, stats: FeatureStats, bpe: Path | None, init: Mapping[str, object] | None) -> None:
    """The experiment's own copies of what its model needs, so that it can be used and moved."""
    with atomic_write(out / model_folder.STATS, binary=True) as handle:
        handle.write(stats.to_bytes())
    if bpe is not None:
        with atomic_write(out / model_folder.BPE, binary=True) as handle:
            handle.write(bpe.read_bytes())
    if init is not None:
        with atomic_write(out / "init.json") as handle:
            handle.write(json.dumps(init, indent=1) + "\n")
