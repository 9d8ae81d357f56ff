"""`w2vbert lm`: a Transformer language model over word pieces."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from w2vbert_asr import config as configuration
from w2vbert_asr import model_folder
from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.data.lines import LineConfig, LineEvalLoader, Lines, LineTrainLoader
from w2vbert_asr.data.texts import read_lines, read_transcripts
from w2vbert_asr.models.language_model import LanguageModel, LanguageModelConfig
from w2vbert_asr.text.tokenizer import Tokenizer
from w2vbert_asr.training import checkpoint
from w2vbert_asr.training.distributed import open_world
from w2vbert_asr.training.optimizer import OptimizerConfig, Part
from w2vbert_asr.training.run import TrainerConfig
from w2vbert_asr.training.trainer import train


@dataclass(frozen=True, kw_only=True)
class Config:
    """text: Kaldi text files. lines: plain text, a sentence a line (.gz is decompressed), in the form of the
    transcripts. dev: Kaldi text files that choose the checkpoint. held_out: data directories whose speakers
    are left out of `text`."""

    text: tuple[Path, ...] = ()
    lines: tuple[Path, ...] = ()
    held_out: tuple[Path, ...] = ()
    dev: tuple[Path, ...]
    tokenizer: Path
    out: Path
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    data: LineConfig = field(default_factory=LineConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if self.text or self.lines else ["text: no file; give --text with transcripts, or --lines"]
        return found if self.dev else [*found, "dev: no file; give --dev with transcripts"]


def run(config: Config) -> dict[str, object]:
    """Train, then export the checkpoint with the least loss on dev as `model/`, and print its perplexity there.

    The loss that is logged is in nats a word piece, ends counted with them; the perplexity is its exponential.
    """
    with open_world(config.trainer.device, config.trainer.timeout) as world:
        trainer = config.trainer.on(world.device)
        config = replace(config, trainer=trainer)
        torch.manual_seed(trainer.seed)
        tokenizer = Tokenizer(config.tokenizer)
        blank_id = tokenizer.blank_id
        texts, dev_texts = read_transcripts(config.text, config.dev, held_out=config.held_out)
        every = itertools.chain(texts, read_lines(config.lines))
        sentences = Lines.of((tokenizer.encode(" ".join(text.split())) for text in every), "text, lines")
        dev = LineEvalLoader(Lines.of(map(tokenizer.encode, dev_texts), "dev"), config.data, blank_id=blank_id)

        def prepare() -> None:
            with atomic_write(config.out / model_folder.BPE, binary=True) as handle:
                handle.write(config.tokenizer.read_bytes())

        result = train(
            LanguageModel(config.model, tokenizer.vocab_size, blank_id),
            LineTrainLoader(
                sentences,
                config.data,
                seed=trainer.seed,
                blank_id=blank_id,
                rank=world.rank,
                world_size=world.size,
            ),
            dev,
            config=trainer,
            optimizers={"all": Part(config=config.optimizer)},
            out=config.out,
            resolved=configuration.to_dict(config),
            digests={"dev": dev.digest, "tokenizer": tokenizer.digest},
            prepare=prepare,
            world=world,
        )
        perplexity = math.exp(result.best[0][0]) if trainer.criterion == "loss" and result.best else None
        if world.is_main:
            (best,) = checkpoint.best(config.out, 1)
            note = f"Language model, {best.name} of {result.step} steps."
            model_folder.export_experiment(config.out, config.out / "model", checkpoint.load_weights(best), note)
            if perplexity is not None:
                print(f"{config.out}: perplexity of dev, a word piece: {perplexity:.2f} ({best.name})")
    return {"step": result.step, "best": result.best, "perplexity": perplexity}
