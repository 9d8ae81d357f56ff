"""`w2vbert report`: one self-contained page about an experiment, beside others if they are given."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from w2vbert_asr.commands.report import curves
from w2vbert_asr.commands.report.curves import Chart, Series, chart
from w2vbert_asr.commands.report.experiment import Experiment, read_experiment
from w2vbert_asr.config import difference
from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.scoring.report import AlignedWords, confusions

_SECTIONS = {
    "Loss": ("loss", "masked_prediction", "contrastive", "diversity", "transducer", "ctc"),
    "Accuracy": ("wer", "accuracy", "contrastive_accuracy", "equal_distractors"),
    "Codebook": ("code_perplexity", "codes_used", "soft_perplexity", "code_entropy"),
}
_OPTIMIZATION = ("lr", "lr_encoder", "lr_rest", "grad_norm")
_SPEED = ("audio_seconds_per_second", "data_wait_share")
_TITLES = {
    "wer": "dev WER (%)",
    "code_perplexity": "codebook perplexity",
    "codes_used": "share of codes used",
    "lr": "learning rate",
    "lr_encoder": "learning rate, encoder",
    "lr_rest": "learning rate, the rest",
    "grad_norm": "gradient norm",
    "skipped": "skipped updates",
    "audio_seconds_per_second": "seconds of audio per second",
    "data_wait_share": "share of time waiting for data",
}
_LOG_SCALE = {"loss", "transducer", "ctc", "grad_norm", "wer"}
_NOT_DRAWN = {"step", "hours", "epoch"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The page is `report.html` of the first experiment. The limits are of each decoded set."""

    experiments: tuple[Path, ...]
    max_utterances: int = 15
    max_speakers: int = 60
    max_confusions: int = 20


def run(config: Config) -> dict[str, object]:
    """Write the page and print its path."""
    experiments = [read_experiment(path) for path in config.experiments]
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = _names(experiments)
    page = templates.get_template("page.html.j2").render(
        names=names,
        experiments=list(zip(names, experiments, strict=True)),
        facts=[_facts(experiment) for experiment in experiments],
        sections=dict(_sections(experiments, names)),
        decodes=[
            (name, color, decode, _worst(decode.aligned, config), _confusions(decode.aligned, config))
            for color, (name, experiment) in enumerate(zip(names, experiments, strict=True))
            for decode in experiment.decodes
        ],
        differences=[difference(experiments[0].config, other.config) for other in experiments[1:]],
        environments=[_flat(experiment.environment) for experiment in experiments],
        frame=curves,
        config=config,
    )
    out = config.experiments[0] / "report.html"
    with atomic_write(out) as file:
        file.write(page)
    print(out)
    return {"report": str(out), "experiments": names, "bytes": len(page.encode())}


def _names(experiments: Sequence[Experiment]) -> list[str]:
    """The name of each folder, with the path where that alone would not tell them apart."""
    often = Counter(experiment.name for experiment in experiments)
    return [experiment.name if often[experiment.name] == 1 else str(experiment.path) for experiment in experiments]


def _facts(experiment: Experiment) -> dict[str, float | None]:
    """The figures of a run's row: steps, hours of audio, seconds of training, and the losses and dev WER it reached."""
    last: dict[str, Any] = {}
    for line in experiment.log:
        last |= {name: line[name] for name in ("step", "hours") if name in line}
    losses, wers = experiment.values("loss", "dev"), experiment.values("wer", "dev")
    train = experiment.values("loss", "train")
    return {
        "steps": last.get("step"),
        "hours": last.get("hours"),
        "seconds": sum(line.get("seconds", 0.0) for line in experiment.timing) or None,
        "train_loss": train[-1][1] if train else None,
        "dev_loss": min((value for _, value in losses), default=None),
        "dev_wer": min((value for _, value in wers), default=None),
    }


def _sections(experiments: Sequence[Experiment], names: Sequence[str]) -> Iterator[tuple[str, list[Chart]]]:
    """Section title and its charts: what is known in its place, what is not under Optimization."""
    logged = {name for experiment in experiments for line in experiment.log for name in line if _drawable(line[name])}
    placed = {name for section in _SECTIONS.values() for name in section}.union(_OPTIMIZATION, _NOT_DRAWN)
    for title, quantities in (
        *_SECTIONS.items(),
        ("Optimization", (*_OPTIMIZATION, *sorted(logged - placed), *_SPEED)),
    ):
        splits = {name: ("timing",) if name in _SPEED else ("train", "dev") for name in quantities}
        charts = [_chart(name, experiments, names, splits[name]) for name in quantities]
        if found := [one for one in charts if one is not None]:
            yield title, found


def _drawable(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chart(
    quantity: str, experiments: Sequence[Experiment], names: Sequence[str], splits: Sequence[str]
) -> Chart | None:
    series = [
        Series(label=name, color=color, split=split, points=_points(experiment, quantity, split))
        for split in splits
        for color, (name, experiment) in enumerate(zip(names, experiments, strict=True))
    ]
    return chart(_TITLES.get(quantity, quantity.replace("_", " ")), series, quantity in _LOG_SCALE)


def _points(experiment: Experiment, quantity: str, split: str) -> list[tuple[float, float]]:
    lines = experiment.timing if split == "timing" else [line for line in experiment.log if line.get("split") == split]
    points = {line["step"]: line[quantity] for line in lines if "step" in line and _drawable(line.get(quantity))}
    return sorted(points.items())  # steps that a resumed run did again stand twice in timing.jsonl


def _worst(aligned: Mapping[str, AlignedWords], config: Config) -> list[tuple[str, AlignedWords]]:
    """Utterances with the most errors, the shorter first where they are equal."""
    wrong = [(utt_id, utterance) for utt_id, utterance in aligned.items() if utterance.errors]
    wrong.sort(key=lambda item: (-item[1].errors, len(item[1].steps), item[0]))
    return wrong[: config.max_utterances]


def _confusions(aligned: Mapping[str, AlignedWords], config: Config) -> list[tuple[tuple[str | None, str | None], int]]:
    return confusions(aligned.values()).most_common(config.max_confusions)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> text, lists of words as a command line would have them."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            found[f"{prefix}{key}"] = shlex.join(value)
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found
