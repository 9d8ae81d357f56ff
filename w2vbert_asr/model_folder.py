"""A trained model on disk: a model folder, or the newest whole checkpoint of an experiment.

A folder holds `config.yaml`, `model.safetensors`, `feature_stats.safetensors` (not a language model's), `bpe.model`
(not W2V-BERT's), `README.md`, and `MANIFEST.json` with the size and SHA-256 of each, so that a damaged file is found
when it is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

import w2vbert_asr.training.checkpoint as checkpoint
from w2vbert_asr import config as configuration
from w2vbert_asr.data.files import atomic_dir, sha256
from w2vbert_asr.errors import ConfigError, DataError, summarize
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.models.language_model import LanguageModel, LanguageModelConfig
from w2vbert_asr.models.transducer import Transducer, TransducerConfig
from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig
from w2vbert_asr.tensors import load_tensors
from w2vbert_asr.text.tokenizer import Tokenizer

CONFIG, WEIGHTS, STATS, BPE, MANIFEST = (
    "config.yaml",
    "model.safetensors",
    "feature_stats.safetensors",
    "bpe.model",
    "MANIFEST.json",
)


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """What a folder says: `kind` (w2vbert, transducer or language_model), the model's configuration as plain data, and
    its files."""

    path: Path
    kind: str
    model: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    bpe: Path | None
    source: str  # where the weights come from, in words
    digest: str  # SHA-256 over what decides its results

    @property
    def stats(self) -> FeatureStats:
        """Mean and standard deviation of the features; a language model has none."""
        return FeatureStats.load(self.path / STATS)

    def tokenizer(self) -> Tokenizer:
        """The word pieces; DataError for a model without."""
        if self.bpe is None:
            raise DataError(f"{self.path}: has no {BPE}; give a fine-tuned model (stage 4)")
        return Tokenizer(self.bpe)

    def transducer(self) -> Transducer:
        """The transducer in evaluation mode; ConfigError for a pre-trained encoder."""
        if self.kind != "transducer":
            raise ConfigError(f"{self.path}: is a {self.kind} model, which cannot transcribe; fine-tune it (stage 4)")
        tokenizer = self.tokenizer()
        config = configuration.from_dict(TransducerConfig, self.model, str(self.path / CONFIG))
        model = Transducer(config, tokenizer.vocab_size, tokenizer.blank_id)
        load_exactly(model, self.weights, str(self.path))
        return model.eval()

    def w2vbert(self) -> W2VBert:
        """The pre-training model in evaluation mode."""
        if self.kind != "w2vbert":
            raise ConfigError(f"{self.path}: is a {self.kind} model; give a pre-training experiment (stage 3)")
        model = W2VBert(configuration.from_dict(W2VBertConfig, self.model, str(self.path / CONFIG)), max_steps=1)
        load_exactly(model, self.weights, str(self.path))
        return model.eval()

    def language_model(self) -> LanguageModel:
        """The language model in evaluation mode; ConfigError for any other."""
        if self.kind != "language_model":
            raise ConfigError(f"{self.path}: is a {self.kind} model; give a language model (`w2vbert lm`)")
        tokenizer = self.tokenizer()
        config = configuration.from_dict(LanguageModelConfig, self.model, str(self.path / CONFIG))
        model = LanguageModel(config, tokenizer.vocab_size, tokenizer.blank_id)
        load_exactly(model, self.weights, str(self.path))
        return model.eval()


def read(path: Path) -> SavedModel:
    """A model folder, or an experiment's newest whole checkpoint. DataError for what is missing or damaged."""
    source = _source(path)
    if source == path:
        _verify(path)
        tree, weights = configuration.read_yaml(path / CONFIG), load_tensors(path / WEIGHTS)
    else:
        tree = configuration.read_yaml(path / CONFIG)
        tree["kind"] = _kind(tree)
        weights = checkpoint.load_weights(source)
    return SavedModel(
        path=path,
        kind=str(tree["kind"]),
        model=tree["model"],
        weights=weights,
        bpe=path / BPE if (path / BPE).is_file() else None,
        source=str(source),
        digest=_digest(path, source),
    )


def digest(path: Path) -> str:
    """The digest of the model that `read` finds now, without reading its weights."""
    return _digest(path, _source(path))


def _source(path: Path) -> Path:
    """Where the weights are: the folder itself, or an experiment's newest whole checkpoint."""
    if (path / MANIFEST).is_file():
        return path
    if (path / "checkpoints").is_dir():
        return checkpoint.newest(path)
    raise DataError(
        f"{path}: neither a model folder ({MANIFEST}) nor an experiment (checkpoints/); "
        "stages 3 and 4 write experiments, stage 5 (`w2vbert average`) model folders"
    )


def _digest(path: Path, source: Path) -> str:
    files = {source / MANIFEST, *(path / name for name in (CONFIG, STATS, BPE))}
    found = {file.name: sha256(file) for file in files if file.is_file()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def write(
    out: Path,
    *,
    kind: str,
    model: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    files: Mapping[str, Path],
    card: str,
) -> None:
    """Write a model folder, whole or not at all. files: name in the folder -> file to copy."""
    with atomic_dir(out) as folder:
        text = yaml.safe_dump({"kind": kind, "model": model}, sort_keys=False, allow_unicode=True)
        (folder / CONFIG).write_text(text, encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
        (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets only the owner read
        (folder / "README.md").write_text(card, encoding="utf-8")
        for name, source in files.items():
            shutil.copyfile(source, folder / name)
        entries = {
            file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in sorted(folder.iterdir())
        }
        (folder / MANIFEST).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def export_experiment(exp: Path, out: Path, weights: Mapping[str, Tensor], note: str) -> None:
    """The model folder of an experiment with the given weights; `note` says in the model card how they were made."""
    tree = configuration.read_yaml(exp / CONFIG)
    kind = _kind(tree)
    files = {name: exp / name for name in (STATS, BPE) if (exp / name).is_file()}
    write(out, kind=kind, model=tree["model"], weights=weights, files=files, card=_card(kind, tree, weights, note))


def load_exactly(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load every weight; ConfigError lists all names and shapes that do not match."""
    report = match(model, weights)
    wrong = [f"{name}: {reason}" for name, reason in report.skipped.items()]
    wrong += [f"{name}: missing" for name in report.missing]
    if wrong:
        raise ConfigError(
            f"{where}: weights do not fit the model:\n{summarize(wrong)}\n  use the model's own config.yaml"
        )
    model.load_state_dict(dict(weights))


@dataclass(frozen=True)
class Match:
    """Names that fit; names of the source that do not, with the reason; names of the model that got nothing."""

    loaded: list[str]
    skipped: dict[str, str]
    missing: list[str]


def match(model: nn.Module, weights: Mapping[str, Tensor]) -> Match:
    """Compare names and shapes of a model and of given weights."""
    own = model.state_dict()
    loaded, skipped = [], {}
    for name, tensor in weights.items():
        if name not in own:
            skipped[name] = "not in this model"
        elif own[name].shape != tensor.shape:
            skipped[name] = f"shape {tuple(tensor.shape)}, here {tuple(own[name].shape)}"
        else:
            loaded.append(name)
    return Match(loaded, skipped, [name for name in own if name not in weights])


def _kind(tree: Mapping[str, Any]) -> str:
    """Of a training, by the keys of its configuration."""
    if "lines" in tree:
        return "language_model"
    return "transducer" if "tokenizer" in tree else "w2vbert"


def _verify(path: Path) -> None:
    try:
        entries = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        wrong = [
            f"{name}: {'missing' if not (path / name).is_file() else 'damaged'}"
            for name, entry in entries.items()
            if not (path / name).is_file()
            or (path / name).stat().st_size != entry["size"]
            or sha256(path / name) != entry["sha256"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path / MANIFEST}: damaged ({error}); write the model folder again (stage 5)") from error
    if wrong:
        raise DataError(f"{path}: does not match its {MANIFEST}:\n{summarize(wrong)}\n  write it again (stage 5)")


def _card(kind: str, tree: Mapping[str, Any], weights: Mapping[str, Tensor], note: str) -> str:
    """The model card."""
    parameters = sum(tensor.numel() for tensor in weights.values())
    name = {"transducer": "Transducer", "w2vbert": "W2V-BERT", "language_model": "Language"}[kind]
    about = f"# {name} model\n\n{parameters / 1e6:.1f} M parameters, made by w2vbert_asr. {note}\n\n"
    if kind == "language_model":
        return about + "Over the word pieces of `bpe.model`: `w2vbert decode --lm this/folder --lm-weight 0.3 ...`\n"
    use = (
        "```python\nfrom w2vbert_asr import load_model\n"
        'print(load_model("this/folder").transcribe("speech.wav").text)\n```\n'
        if kind == "transducer"
        else "`w2vbert finetune --init this/folder ...` starts a transducer from it.\n"
    )
    trained_on = tree.get("train", [])
    return (
        f"{about}Trained on: {', '.join(Path(folder).name for folder in trained_on)}. "
        "Input: audio at any rate, resampled to 16 kHz.\n\n" + use
    )
