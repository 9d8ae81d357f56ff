"""`w2vbert tune`: the language model's weight and the tokens' reward that a development set is decoded best with."""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from tqdm import tqdm

from w2vbert_asr import config as configuration
from w2vbert_asr.batch import FRAMES_PER_SECOND
from w2vbert_asr.data import batching
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.data.files import absolute, atomic_dir
from w2vbert_asr.data.tables import Problem, parse_text, read_table
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.recognizer import load_language_model, load_model
from w2vbert_asr.scoring.error_counts import ErrorCounts, count_errors, total
from w2vbert_asr.search import SearchConfig, fuse

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All pairs of lm_weights and length_rewards are tried. search: everything else of the search, lodr_weight with it.
    batch_seconds: padded audio decoded at once."""

    model: Path
    data: Path
    out: Path
    lm: Path
    lodr: Path | None = None
    lm_weights: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    length_rewards: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    search: SearchConfig = field(default_factory=SearchConfig)
    device: str = "auto"
    batch_seconds: float = 120.0

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = []
        for name in ("lm_weights", "length_rewards"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)) or not all(map(math.isfinite, values)):
                found.append(f"{name}: expected different numbers, the least first, found {list(values)}")
        if self.lm_weights and min(self.lm_weights) < 0:
            found.append(f"lm_weights: {min(self.lm_weights)} is negative")
        if self.search.name == "greedy":
            found.append("search.name: greedy search has no language model; use beam")
        return found


Point = tuple[float, float]  # lm_weight, length_reward


def run(config: Config) -> dict[str, object]:
    """Decode the set with every pair of weights; write and print what came of it. Returns what is in tune.json."""
    refs = _references(config.data)
    recognizer = load_model(config.model, config.device)
    models = [
        None if path is None else load_language_model(path, recognizer.tokenizer, recognizer.device)
        for path in (config.lm, config.lodr)
    ]
    points: list[Point] = list(itertools.product(config.lm_weights, config.length_rewards))
    settings = [replace(config.search, lm_weight=weight, length_reward=reward) for weight, reward in points]
    searches = [(own, fuse(own, *models)) for own in settings]

    reader = FeatureReader([config.data], online=not (config.data / "feats.scp").is_file())
    batches = batching.batch_by_cost(reader.num_frames, config.batch_seconds * FRAMES_PER_SECOND, None)
    texts: list[dict[str, str]] = [{} for _ in points]
    for numbers in tqdm(batches, desc=f"tune on {config.data.name}", unit="batch", disable=None):
        utt_ids = [reader.utt_ids[number] for number in numbers]
        found = recognizer.decode_with([reader.load(int(number)) for number in numbers], searches)
        for own, several in zip(texts, found, strict=True):
            found_texts = (recognizer.tokenizer.decode(hypotheses[0].tokens) for hypotheses in several)
            own.update(zip(utt_ids, found_texts, strict=True))
    counts = {point: total(count_errors(refs, own).values()) for point, own in zip(points, texts, strict=True)}
    best = min(points, key=lambda point: (counts[point].errors, point[0], abs(point[1])))
    result = _result(config, counts, best)
    _write(config, counts, best, result)
    print(_table(config, counts))
    print(
        f"{config.out}: WER {counts[best].wer:.2f} with --lm-weight {best[0]:g} --length-reward {best[1]:g} "
        f"({counts[points[0]].wer:.2f} with {points[0][0]:g} and {points[0][1]:g})"
    )
    for name, value, tried in zip(("lm_weights", "length_rewards"), best, _axes(config), strict=True):
        if len(tried) > 1 and value in (tried[0], tried[-1]) and value != 0:
            _log.warning("%s: the best, %g, is at the edge of what was tried; try more beyond it", name, value)
    return result


def _references(data: Path) -> dict[str, str]:
    problems: list[Problem] = []
    refs = read_table(data / "text", parse_text, problems)
    wrong = [str(data / str(problem)) for problem in problems if problem.severity == "error"]
    if wrong:
        raise DataError(f"{len(wrong)} problem(s):\n{summarize(wrong)}")
    if not any(refs.values()):
        raise DataError(f"{data / 'text'}: no words to compare with; give a set that has transcripts")
    return refs


def _axes(config: Config) -> tuple[Sequence[float], Sequence[float]]:
    return config.lm_weights, config.length_rewards


def _result(config: Config, counts: dict[Point, ErrorCounts], best: Point) -> dict[str, object]:
    def entry(point: Point) -> dict[str, object]:
        return {"lm_weight": point[0], "length_reward": point[1], **counts[point].to_dict()}

    return {
        "lm": str(config.lm),
        "lodr": None if config.lodr is None else str(config.lodr),
        "search": configuration.to_dict(config.search),
        "best": entry(best),
        "tried": [entry(point) for point in counts],
    }


def _write(config: Config, counts: dict[Point, ErrorCounts], best: Point, result: dict[str, object]) -> None:
    search = replace(config.search, lm_weight=best[0], length_reward=best[1])
    decode = {"lm": absolute(config.lm), "search": configuration.to_dict(search)}
    if config.lodr is not None:
        decode["lodr"] = absolute(config.lodr)
    with atomic_dir(config.out) as folder:
        (folder / "tune.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (folder / "decode.yaml").write_text(yaml.safe_dump(decode, sort_keys=False, allow_unicode=True), "utf-8")
        _draw(folder / "tune.png", config, counts, best)


def _table(config: Config, counts: dict[Point, ErrorCounts]) -> str:
    """WER, a row a weight and a column a reward."""
    lines = ["WER, by weight (down) and length reward (across)"]
    lines.append(" " * 7 + "".join(f"{reward:>8g}" for reward in config.length_rewards))
    for weight in config.lm_weights:
        values = "".join(f"{counts[weight, reward].wer:>8.2f}" for reward in config.length_rewards)
        lines.append(f"{weight:>7g}{values}")
    return "\n".join(lines)


def _draw(path: Path, config: Config, counts: dict[Point, ErrorCounts], best: Point) -> None:
    from matplotlib.figure import Figure  # slow to import

    weights, rewards = _axes(config)
    figure = Figure(figsize=(1.5 + 0.8 * len(rewards), 1.5 + 0.5 * len(weights)), layout="constrained")
    axes = figure.add_subplot()
    values = [[counts[weight, reward].wer for reward in rewards] for weight in weights]
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="viridis")
    for (row, weight), (column, reward) in itertools.product(enumerate(weights), enumerate(rewards)):
        mark = "bold" if (weight, reward) == best else "normal"
        text = f"{counts[weight, reward].wer:.2f}"
        axes.text(column, row, text, ha="center", va="center", color="white", weight=mark, bbox={"alpha": 0.3, "lw": 0})
    axes.set_xticks(range(len(rewards)), [f"{reward:g}" for reward in rewards])
    axes.set_yticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    axes.set(xlabel="length reward", ylabel="weight of the language model", title=f"WER on {config.data.name} (%)")
    figure.colorbar(image, label="WER (%)")
    figure.savefig(path, dpi=120)
