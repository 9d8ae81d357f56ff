"""`w2vbert pretrain`: W2V-BERT on audio without transcripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from w2vbert_asr import config as configuration
from w2vbert_asr import model_folder
from w2vbert_asr.commands import experiment
from w2vbert_asr.data.dataset import Corpus, DataConfig, EvalLoader, TrainLoader
from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig
from w2vbert_asr.training import checkpoint
from w2vbert_asr.training.distributed import open_world
from w2vbert_asr.training.optimizer import OptimizerConfig, Part
from w2vbert_asr.training.run import TrainerConfig
from w2vbert_asr.training.trainer import train


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


def run(config: Config) -> dict[str, object]:
    """Train, then export the last checkpoint as `model/`."""
    trainer = config.trainer
    with open_world(trainer.device, trainer.timeout) as world:
        torch.manual_seed(trainer.seed)
        model = W2VBert(config.model, trainer.max_steps)
        init = None
        if config.init is None:
            stats = experiment.training_stats(config.train)
        else:
            saved = model_folder.read(config.init)
            parts = sorted({name.split(".")[0] for name in saved.weights})
            stats, init = saved.stats, experiment.load_parts(model, saved.weights, parts, saved.source)
        corpus = Corpus(config.train, config.data, stats, None, config.data.speeds)
        loader = TrainLoader(
            corpus, config.data, seed=trainer.seed, packed=True, rank=world.rank, world_size=world.size
        )
        dev = EvalLoader(Corpus([config.dev], config.data, stats, None), config.data, packed=True)
        result = train(
            model,
            loader,
            dev,
            config=trainer,
            optimizers={"all": Part(config=config.optimizer)},
            out=config.out,
            resolved=configuration.to_dict(config),
            digests={"dev": dev.digest},
            prepare=lambda: experiment.write_files(config.out, stats, None, init),
            world=world,
        )
        if world.is_main:
            weights = checkpoint.load_weights(result.checkpoint)
            note = f"W2V-BERT pre-training, {result.step} steps."
            model_folder.export_experiment(config.out, config.out / "model", weights, note)
    return {"step": result.step, "best": result.best}
