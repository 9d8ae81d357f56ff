"""`w2vbert plan`: what a training needs before anyone rents a GPU, from its configuration alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from w2vbert_asr import config as configuration
from w2vbert_asr.commands import finetune, pretrain
from w2vbert_asr.errors import ConfigError
from w2vbert_asr.models.transducer import TransducerConfig
from w2vbert_asr.models.w2vbert import W2VBertConfig
from w2vbert_asr.planning.plan import Gpu, make_plan
from w2vbert_asr.planning.text import plan_text
from w2vbert_asr.planning.training import PlannedTraining
from w2vbert_asr.training.run import TrainerConfig

_PEAK_TFLOPS = {"bf16": 989.0, "fp32": 67.0}  # of NVIDIA's H100 and H200 (SXM), dense, from their data sheets
_SOMEWHERE = {"train": ["train"], "dev": "dev", "out": "out"}  # what a recipe gives on the command line


@dataclass(frozen=True, kw_only=True)
class Config:
    """config_file, settings: of the training that is planned; kind: which it is, where its keys do not say.

    vocab_size, utterance_seconds, tokens_per_second: assumed of fine-tuning. peak_tflops: of one GPU, dense, null for
    that of an H100 or H200 in the training's precision. utilisation: share of it that the model's own operations
    reach; by default what pre-training W2V-BERT XL reached on an H200 (docs/benchmarks.md). gpu_memory_gb: in GiB.
    """

    config_file: Path | None = None
    settings: tuple[str, ...] = ()
    gpus: int = 1
    kind: Literal["pretrain", "finetune"] | None = None
    vocab_size: int = 1024
    utterance_seconds: float = 12.0
    tokens_per_second: float = 4.0
    peak_tflops: float | None = None
    utilisation: float = 0.22
    gpu_memory_gb: float = 80.0

    def problems(self) -> list[str]:
        """What is out of range."""
        ranges = {
            "gpus": self.gpus >= 1,
            "vocab_size": self.vocab_size >= 2,
            "utterance_seconds": self.utterance_seconds > 0,
            "tokens_per_second": self.tokens_per_second >= 0,
            "peak_tflops": self.peak_tflops is None or self.peak_tflops > 0,
            "utilisation": 0 < self.utilisation <= 1,
            "gpu_memory_gb": self.gpu_memory_gb > 0,
        }
        return [f"{key}={getattr(self, key)} is out of range" for key, fine in ranges.items() if not fine]


def run(config: Config) -> dict[str, object]:
    """Print the plan. Raises ConfigError for a configuration that is wrong, or of neither training."""
    training = load_training(config)
    tflops = config.peak_tflops or _PEAK_TFLOPS[training.trainer.precision]
    gpu = Gpu(peak_flops=tflops * 1e12, utilisation=config.utilisation, memory=config.gpu_memory_gb * 2**30)
    plan = make_plan(training, config.gpus, gpu)
    print(plan_text(plan))
    return plan.to_dict()


def load_training(config: Config) -> PlannedTraining:
    """The training that is planned. Raises ConfigError for a configuration that is wrong, or of neither training."""
    kind = config.kind or _kind_of(config)
    command, more = (pretrain, {}) if kind == "pretrain" else (finetune, {"tokenizer": "bpe.model"})
    planned = configuration.load(command.Config, config.config_file, config.settings, {**_SOMEWHERE, **more})
    training = PlannedTraining(
        model=planned.model,
        data=planned.data,
        trainer=_settled(planned.trainer),
        optimizers=planned.parts(),
        freeze=planned.freeze if isinstance(planned, finetune.Config) else (),
        vocab_size=config.vocab_size,
        utterance_seconds=config.utterance_seconds,
        tokens_per_second=config.tokens_per_second,
    )
    if training.problems():
        raise ConfigError("configuration: " + "; ".join(training.problems()))
    return training


def _settled(trainer: TrainerConfig) -> TrainerConfig:
    """With the precision that `auto` comes to: bf16 on the GPUs to come."""
    if trainer.precision != "auto":
        return trainer
    return (
        trainer.on(torch.device("cpu")) if trainer.device == "cpu" else dataclasses.replace(trainer, precision="bf16")
    )


def _kind_of(config: Config) -> Literal["pretrain", "finetune"]:
    """Which training has keys that the other has not."""
    keys = {setting.partition("=")[0].strip().replace("-", "_") for setting in config.settings}
    if config.config_file is not None:
        tree = configuration.read_yaml(config.config_file)
        keys |= set(tree) | {f"model.{key}" for key in _mapping(tree.get("model"))}
    keys = {".".join(key.split(".")[: 2 if key.startswith("model.") else 1]) for key in keys}
    pretraining, tuning = _keys(pretrain.Config, W2VBertConfig), _keys(finetune.Config, TransducerConfig)
    marks = {"pretrain": keys & (pretraining - tuning), "finetune": keys & (tuning - pretraining)}
    if marks["pretrain"] and not marks["finetune"]:
        return "pretrain"
    if marks["finetune"] and not marks["pretrain"]:
        return "finetune"
    found = ", ".join(sorted(marks["pretrain"] | marks["finetune"])) or "no key that only one of them has"
    where = config.config_file or "the defaults"
    raise ConfigError(f"{where}: pre-training or fine-tuning? found {found}; give --kind pretrain or --kind finetune")


def _keys(cls: Any, model: Any) -> set[str]:
    """Keys of a verb's configuration, and those of its model."""
    own = {field.name for field in dataclasses.fields(cls)}
    return own | {f"model.{field.name}" for field in dataclasses.fields(model)}


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
