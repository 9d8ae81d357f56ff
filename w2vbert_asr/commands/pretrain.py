"""`w2vbert pretrain`: W2V-BERT on audio without transcripts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from w2vbert_asr import config as configuration
from w2vbert_asr import model_folder
from w2vbert_asr.commands import experiment
from w2vbert_asr.data.corpus import Corpus, DataConfig
from w2vbert_asr.data.dataset import EvalLoader, TrainLoader
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig
from w2vbert_asr.training import checkpoint
from w2vbert_asr.training.distributed import World, open_world
from w2vbert_asr.training.optimizer import OptimizerConfig, Part
from w2vbert_asr.training.run import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """The run configuration of pre-training. init: a model or experiment to go on from, with its feature statistics."""

    train: tuple[Path, ...]
    dev: Path
    out: Path
    init: Path | None = None
    model: W2VBertConfig = field(default_factory=W2VBertConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def parts(self) -> dict[str, Part]:
        """Which optimizer trains which parameters."""
        return {"all": Part(config=self.optimizer)}


def run(config: Config) -> dict[str, object]:
    """Train, then export the last checkpoint as `model/`."""
    with open_world(config.trainer.device, config.trainer.timeout) as world:
        config = replace(config, trainer=config.trainer.on(world.device))
        result = experiment.run(assemble(config, world), config.trainer, config.out, world)
        if world.is_main:
            weights = checkpoint.load_weights(result.checkpoint)
            note = f"W2V-BERT pre-training, {result.step} steps."
            model_folder.export_experiment(config.out, config.out / "model", weights, note)
    return {"step": result.step, "best": result.best}


def assemble(config: Config, world: World, stats: FeatureStats | None = None) -> experiment.Assembly:
    """The model at its start and this rank's data. stats: in place of the training sets' or those of `init`."""
    trainer = config.trainer
    torch.manual_seed(trainer.seed)
    model = W2VBert(config.model, trainer.max_steps)
    init = None
    if config.init is not None:
        saved = model_folder.read(config.init)
        parts = sorted({name.split(".")[0] for name in saved.weights})
        init = experiment.load_parts(model, saved.weights, parts, saved.source)
        stats = stats or saved.stats
    stats = stats or experiment.training_stats(config.train)
    corpus = Corpus(config.train, config.data, stats, None, config.data.speeds)
    dev = EvalLoader(Corpus([config.dev], config.data, stats, None), config.data, packed=True)
    return experiment.Assembly(
        model=model,
        loader=TrainLoader(corpus, config.data, seed=trainer.seed, packed=True, rank=world.rank, world_size=world.size),
        dev=dev,
        parts=config.parts(),
        resolved=configuration.to_dict(config),
        digests={"dev": dev.digest},
        prepare=lambda: experiment.write_files(config.out, stats, None, init),
    )
