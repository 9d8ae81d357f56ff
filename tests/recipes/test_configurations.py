"""Every YAML of every recipe loads, its model builds on the meta device, and a step of it runs at a reduced width."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from w2vbert_asr import config as configuration
from w2vbert_asr.batch import Batch
from w2vbert_asr.commands import finetune, lm, prepare, pretrain
from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.models.language_model import LanguageModel
from w2vbert_asr.models.transducer import Transducer
from w2vbert_asr.models.w2vbert import W2VBert
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.optimizer import Part, build
from w2vbert_asr.training.precision import settle
from w2vbert_asr.training.update import Setting, compute_gradients

RECIPES = Path(__file__).parents[2] / "recipes"
PRETRAIN = sorted(RECIPES.glob("*/conf/pretrain*.yaml"))
FINETUNE = sorted(RECIPES.glob("*/conf/finetune*.yaml"))
MILLIONS = {"base": (80, 130), "xl": (570, 630), "xxl": (950, 1050)}
OPTIONS = {"train": ["train"], "dev": "dev", "out": "out"}


def name_of(path: Path) -> str:
    return f"{path.parts[-3]}-{path.stem}"


def load_pretrain(path: Path) -> pretrain.Config:
    return configuration.load(pretrain.Config, path, options=OPTIONS)


def load_finetune(path: Path) -> finetune.Config:
    return configuration.load(finetune.Config, path, options={**OPTIONS, "tokenizer": "bpe.model"})


def narrow(encoder: EncoderConfig, num_layers: int) -> EncoderConfig:
    block = dataclasses.replace(encoder.block, model_dim=16, num_heads=2, feed_forward_dim=32, kernel_size=3)
    subsampling = dataclasses.replace(encoder.subsampling, channels=2)
    return dataclasses.replace(encoder, num_layers=num_layers, block=block, subsampling=subsampling)


def make_batch(vocab_size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        feats=torch.randn(2, 160, 80, generator=generator),
        feat_lens=torch.tensor([160, 120]),
        tokens=torch.randint(1, vocab_size, (2, 5), generator=generator),
        token_lens=torch.tensor([5, 3]),
        utt_ids=("a", "b"),
    )


def one_step(model: torch.nn.Module, parts: dict[str, Part], trainer: Any) -> None:
    """Gradients and an update with the recipe's own optimizers."""
    optimizers = build(model, parts, trainer.max_steps)
    setting = Setting(
        seed=1,
        bf16=settle("auto", World().device) == "bf16" and trainer.precision != "fp32",
        clip_norm=trainer.clip_norm,
        world=World(),
    )
    before = [parameter.detach().clone() for parameter in optimizers.parameters]
    optimizers.set_learning_rates(trainer.max_steps // 2)
    assert compute_gradients(model, optimizers.parameters, [make_batch(9)], 0, 0, setting).finite
    optimizers.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, optimizers.parameters, strict=True))


def test_there_are_configurations_of_the_contract() -> None:
    assert {path.parts[-3] for path in PRETRAIN} == {path.parts[-3] for path in FINETUNE}
    assert {path.parts[-3] for path in PRETRAIN} == {path.name for path in RECIPES.iterdir() if path.is_dir()}
    for size in MILLIONS:
        for hours in ("100h", "960h"):
            assert RECIPES / "librispeech" / "conf" / f"finetune_{hours}_{size}.yaml" in FINETUNE


@pytest.mark.parametrize("path", [*PRETRAIN, *FINETUNE], ids=name_of)
def test_a_configuration_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 50


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/conf/prepare.yaml")), ids=name_of)
def test_prepare_loads(path: Path) -> None:
    options = {"corpus": "librispeech", "source": "somewhere", "out": "data"}
    config = configuration.load(prepare.Config, path, options=options)
    held_out = {speaker for name in ("dev", "test") for speaker in config.sets[name].speakers}
    for name in ("train", "train_clean_100"):
        assert held_out <= set(config.sets[name].exclude_speakers)
    assert not set(config.sets["dev"].speakers) & set(config.sets["test"].speakers)


def test_the_language_model_of_librispeech_is_the_papers() -> None:
    options = {"text": ["text"], "dev": ["dev"], "tokenizer": "bpe.model", "out": "out"}
    config = configuration.load(lm.Config, RECIPES / "librispeech/conf/lm.yaml", options=options)
    with torch.device("meta"):
        model = LanguageModel(config.model, 1024, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(103e6, rel=0.02)


@pytest.mark.parametrize("path", PRETRAIN, ids=name_of)
def test_pretraining_builds_and_steps(path: Path) -> None:
    config = load_pretrain(path)
    with torch.device("meta"):
        model = W2VBert(config.model, config.trainer.max_steps)
    low, high = MILLIONS.get(path.stem.removeprefix("pretrain_"), (0, 130))
    assert low <= sum(parameter.numel() for parameter in model.parameters()) / 1e6 <= high
    quantizer = dataclasses.replace(config.model.quantizer, num_codes=8, code_dim=16)
    small = dataclasses.replace(
        config.model, encoder=narrow(config.model.encoder, 2), contrastive_layers=1, quantizer=quantizer
    )
    one_step(W2VBert(small, config.trainer.max_steps), {"all": Part(config=config.optimizer)}, config.trainer)


@pytest.mark.parametrize("path", FINETUNE, ids=name_of)
def test_finetuning_builds_and_steps_and_its_encoder_is_the_pre_trained_one(path: Path) -> None:
    config = load_finetune(path)
    with torch.device("meta"):
        Transducer(config.model, 1024, 0)
    size = path.stem.split("_")[-1]
    partner = path.with_name(f"pretrain_{size}.yaml" if size in MILLIONS else "pretrain.yaml")
    pretrained, own = load_pretrain(partner).model.encoder, config.model.encoder
    assert dataclasses.replace(own.block, dropout=0.0) == dataclasses.replace(pretrained.block, dropout=0.0)
    assert (own.num_layers, own.subsampling) == (pretrained.num_layers, pretrained.subsampling)
    decoder = dataclasses.replace(config.model.decoder, embedding_dim=4, hidden_dim=8)
    joiner = dataclasses.replace(config.model.joiner, joiner_dim=8)
    small = dataclasses.replace(config.model, encoder=narrow(own, 1), projection_dim=12, decoder=decoder, joiner=joiner)
    parts = {
        "encoder": Part(config=config.encoder_optimizer, prefixes=("encoder.",)),
        "rest": Part(config=config.optimizer),
    }
    one_step(Transducer(small, 9, 0), parts, config.trainer)
