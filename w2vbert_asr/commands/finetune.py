"""`w2vbert finetune`: the transducer, from a pre-trained encoder, from another transducer, or from scratch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from w2vbert_asr import config as configuration
from w2vbert_asr import model_folder
from w2vbert_asr.batch import Batch
from w2vbert_asr.commands import experiment
from w2vbert_asr.data.batching import item_frames
from w2vbert_asr.data.corpus import Corpus, DataConfig
from w2vbert_asr.data.dataset import EvalLoader, TrainLoader
from w2vbert_asr.features.augment import SpecAugmentConfig
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.models.transducer import Transducer, TransducerConfig
from w2vbert_asr.modules.subsampling import subsampled
from w2vbert_asr.planning.activations import Widths
from w2vbert_asr.planning.heads import lattice_bytes
from w2vbert_asr.scoring import score
from w2vbert_asr.search import SearchConfig, search
from w2vbert_asr.text.tokenizer import Tokenizer
from w2vbert_asr.training.distributed import World, open_world
from w2vbert_asr.training.optimizer import OptimizerConfig, Part, freeze
from w2vbert_asr.training.precision import settle
from w2vbert_asr.training.run import TrainerConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The run configuration of fine-tuning.

    init: where to start from; the encoder's sizes and the feature statistics are then those of that model, and
    init_parts (encoder, projection, decoder, joiner, ctc) says what of it is loaded; of the encoder's blocks only the
    init_blocks lowest, where that is given: the upper ones start afresh. encoder_optimizer: of the encoder,
    optimizer: of the rest. freeze: name prefixes that are not trained (encoder.subsampling is the feature encoder).
    """

    train: tuple[Path, ...]
    dev: Path
    out: Path
    tokenizer: Path
    init: Path | None = None
    init_parts: tuple[str, ...] = ("encoder",)
    init_blocks: int | None = None
    model: TransducerConfig = field(default_factory=TransducerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    encoder_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(peak_lr=3e-4))
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(peak_lr=1e-3))
    freeze: tuple[str, ...] = ()
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(criterion="wer"))

    def problems(self) -> list[str]:
        """What is out of range."""
        if self.init_blocks is not None and self.init_blocks < 0:
            return [f"init_blocks: {self.init_blocks} is negative; null loads all blocks"]
        return []

    def parts(self) -> dict[str, Part]:
        """Which optimizer trains which parameters."""
        return {
            "encoder": Part(config=self.encoder_optimizer, prefixes=("encoder.",)),
            "rest": Part(config=self.optimizer),
        }


def run(config: Config) -> dict[str, object]:
    """Train; dev loss and greedy dev WER choose the checkpoints that are kept for `w2vbert average`."""
    with open_world(config.trainer.device, config.trainer.timeout) as world:
        config = dataclasses.replace(config, trainer=config.trainer.on(world.device))
        assembly = assemble(config, world)
        if world.is_main:
            _log.info("%s", lattice_message(config, assembly.loader, world))
        result = experiment.run(assembly, config.trainer, config.out, world)
    return {"step": result.step, "best": result.best}


def assemble(config: Config, world: World, stats: FeatureStats | None = None) -> experiment.Assembly:
    """The model at its start and this rank's data. stats: in place of the training sets' or those of `init`."""
    trainer = config.trainer
    torch.manual_seed(trainer.seed)
    tokenizer = Tokenizer(config.tokenizer)
    saved = model_folder.read(config.init) if config.init else None
    if saved is not None:
        encoder = _encoder_of(saved, config.model.encoder)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))
    model = Transducer(config.model, tokenizer.vocab_size, tokenizer.blank_id, trainer.max_steps)
    init = None
    if saved is not None:
        upper = _upper_blocks(saved.weights, config.init_blocks)
        init = experiment.load_parts(model, saved.weights, config.init_parts, saved.source, upper)
        stats = stats or saved.stats
    stats = stats or experiment.training_stats(config.train)
    freeze(model, config.freeze)
    loader = TrainLoader(
        Corpus(config.train, config.data, stats, tokenizer, config.data.speeds),
        config.data,
        seed=trainer.seed,
        packed=False,
        blank_id=tokenizer.blank_id,
        augment=config.augment,
        rank=world.rank,
        world_size=world.size,
    )
    dev_corpus = Corpus([config.dev], config.data, stats, tokenizer)
    dev = EvalLoader(dev_corpus, config.data, packed=False, blank_id=tokenizer.blank_id)
    references = dict(zip(dev_corpus.utt_ids, dev_corpus.texts, strict=True))
    return experiment.Assembly(
        model=model,
        loader=loader,
        dev=dev,
        parts=config.parts(),
        resolved=configuration.to_dict(config),
        digests={"dev": dev.digest, "tokenizer": tokenizer.digest},
        measure=lambda trained, batch: greedy_errors(trained, batch, references, tokenizer),
        prepare=lambda: experiment.write_files(config.out, stats, config.tokenizer, init),
    )


def lattice_message(config: Config, loader: TrainLoader, world: World) -> str:
    """How much memory the lattice of the batch that costs most takes at its peak, and what lowers it."""
    items = loader.items(loader.dearest_position)
    tokens = [len(loader.corpus.tokens[item[0].index]) for item in items]
    frames = [subsampled(subsampled(item_frames(item))) for item in items]
    widths = Widths.of(config.trainer.precision, "cpu" if world.device.type == "cpu" else "cuda")
    vocab_size = Tokenizer(config.tokenizer).vocab_size
    size = lattice_bytes(config.model, list(zip(frames, tokens, strict=True)), vocab_size, widths)
    knobs = ["data.max_seconds", "model.joiner.joiner_dim", "the vocabulary"]
    if config.trainer.precision == "fp32" and settle("auto", world.device) == "bf16":
        knobs.append("trainer.precision=bf16")
    knobs += ["model.loss=pruned"] if config.model.loss != "pruned" else ["model.prune_range"]
    return (
        f"lattice of the dearest batch, {len(items)} utterance(s) of up to {max(frames)} frames and {max(tokens)} "
        f"tokens: {size / 1e6:.0f} MB at its peak; what lowers it: {', '.join(knobs)}"
    )


def greedy_errors(
    model: nn.Module, batch: Batch, references: Mapping[str, str], tokenizer: Tokenizer
) -> dict[str, tuple[float, float]]:
    """Sums and counts of greedy search on a batch: `wer` in percent, and the share of empty hypotheses."""
    assert isinstance(model, Transducer)
    with torch.inference_mode():
        found = search(model, *model.encode(batch.feats, batch.feat_lens), SearchConfig(name="greedy"))
    texts = [tokenizer.decode(best[0].tokens) for best in found]
    counts = score(
        {utt_id: references[utt_id] for utt_id in batch.utt_ids}, dict(zip(batch.utt_ids, texts, strict=True))
    )
    empty = sum(not text for text in texts)
    return {"wer": (100.0 * counts.errors, counts.ref_words), "empty_share": (empty, len(texts))}


def _upper_blocks(weights: Iterable[str], num_lower: int | None) -> set[str]:
    """The names of the weights of the encoder's blocks from number `num_lower` on; none for None."""
    if num_lower is None:
        return set()
    prefix = "encoder.blocks."
    in_blocks = (name for name in weights if name.startswith(prefix))
    return {name for name in in_blocks if int(name.removeprefix(prefix).split(".")[0]) >= num_lower}


def _encoder_of(saved: model_folder.SavedModel, wanted: EncoderConfig) -> EncoderConfig:
    """The encoder of a saved model, with the dropout and the checkpointing that this run asks for."""
    encoder = configuration.from_dict(EncoderConfig, saved.model["encoder"], str(saved.path))
    block = dataclasses.replace(encoder.block, dropout=wanted.block.dropout)
    return dataclasses.replace(encoder, block=block, checkpoint_blocks=wanted.checkpoint_blocks)
