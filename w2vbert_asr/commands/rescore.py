"""`w2vbert rescore`: the exact log P(text | audio) of n-best hypotheses, over all alignments, and language models.

A search's own score leaves out the alignments that it dropped, and so depends on the search. This one does not: the
best hypotheses of two searches can be compared by it. A language model may be added, as in a search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from w2vbert_asr.batch import FRAMES_PER_SECOND
from w2vbert_asr.data import batching
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.data.tables import write_table
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.recognizer import load_model
from w2vbert_asr.search import SearchConfig

HYPOTHESES = "hyp.jsonl"


@dataclass(frozen=True, kw_only=True)
class Config:
    """hyp: a folder that `decode` wrote for `data`. batch_seconds: padded audio looked at together.

    lm, lodr: language models to score the hypotheses with anew, with the weights and the length reward of `search`.
    """

    model: Path
    data: Path
    hyp: Path
    out: Path
    lm: Path | None = None
    lodr: Path | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    device: str = "auto"
    batch_seconds: float = 120.0


def run(config: Config) -> dict[str, object]:
    """Write `text` and `hyp.jsonl` as `decode` does, each n-best entry with its log_prob, the most probable first.

    What language models add (lm_score) is added to that for the ranking: in the search, unless others are given here.

    log_prob of an utterance is that of the search's own best hypothesis, which its tokens, words, times and score go on
    to describe; text is that of the most probable one. Prints means over utterances: of that log_prob, of what the
    search's score falls short of it, of the log_prob of the most probable ones, and the share in which that is another.
    """
    records = _read(config.hyp / HYPOTHESES)
    recognizer = load_model(config.model, config.device, search=config.search, lm=config.lm, lodr=config.lodr)
    reader = FeatureReader([config.data], online=not (config.data / "feats.scp").is_file())
    _join(records, reader.utt_ids, config)
    batches = batching.batch_by_cost(reader.num_frames, config.batch_seconds * FRAMES_PER_SECOND, None)
    vocab_size = recognizer.tokenizer.vocab_size
    for numbers in tqdm(batches, desc=f"rescore {config.data.name}", unit="batch", disable=None):
        own = [records[reader.utt_ids[number]] for number in numbers]
        tokens = [[entry["token_ids"] for entry in record["nbest"]] for record in own]
        foreign = [ids for several in tokens for ids in several if not all(0 < one < vocab_size for one in ids)]
        if foreign:
            raise DataError(
                f"{config.hyp}: token ids {foreign[0]} are not of this model, which has {vocab_size} pieces"
            )
        found = recognizer.log_probs([reader.load(int(number)) for number in numbers], tokens)
        for record, log_probs in zip(own, found, strict=True):
            record["log_prob"] = log_probs[0]
            entries = [entry | {"log_prob": one} for entry, one in zip(record["nbest"], log_probs, strict=True)]
            if recognizer.fusion is not None:
                ids = [entry["token_ids"] for entry in entries]
                added = recognizer.fusion.totals(
                    ids, vocab_size, recognizer.tokenizer.blank_id, recognizer.device
                ).tolist()
                entries = [entry | {"lm_score": one} for entry, one in zip(entries, added, strict=True)]
            record["nbest"] = sorted(entries, key=lambda entry: -entry["log_prob"] - entry.get("lm_score", 0.0))
    result = _summary(list(records.values()))
    for record in records.values():
        record["text"] = record["nbest"][0]["text"]
    with atomic_dir(config.out) as folder:
        write_table(folder / "text", {name: records[name]["text"] for name in sorted(records)})
        lines = [json.dumps(records[name], ensure_ascii=False) + "\n" for name in sorted(records)]
        (folder / HYPOTHESES).write_text("".join(lines), encoding="utf-8")
        (folder / "rescore.json").write_text(json.dumps(result) + "\n")
    print(
        f"{config.out}: {len(records)} utterances; log P of the best hypotheses {result['log_prob']:.3f} "
        f"(the search's score: {result['missing']:.3f} below), of the most probable of the n-best "
        f"{result['best_log_prob']:.3f} (another one in {100 * float(str(result['changed'])):.1f} %)"
    )
    return result


def _summary(records: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Means over utterances."""

    def mean(values: Sequence[float]) -> float:
        return math.fsum(values) / len(values)

    return {
        "utterances": len(records),
        "log_prob": mean([record["log_prob"] for record in records]),
        "missing": mean([record["log_prob"] - record["score"] for record in records]),
        "best_log_prob": mean([record["nbest"][0]["log_prob"] for record in records]),
        "changed": mean([record["nbest"][0]["text"] != record["text"] for record in records]),
    }


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a decoding by utt_id; every defective line in one DataError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); `w2vbert decode` (stage 5) makes it") from error
    records, problems = {}, []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            float(record["score"]), str(record["text"])
            for entry in record["nbest"]:
                if not all(type(one) is int for one in entry["token_ids"]):
                    raise ValueError("token_ids are no whole numbers")
            if not record["nbest"]:
                raise ValueError("nbest is empty")
            records[record["utt_id"]] = record
        except KeyError as error:
            problems.append(f"line {number}: no {error}")
        except (ValueError, TypeError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise DataError(f"{path}: decode again; {len(problems)} line(s) cannot be used:\n{summarize(problems)}")
    return records


def _join(records: Mapping[str, Any], utt_ids: Sequence[str], config: Config) -> None:
    """DataError unless both have the same utterances."""
    decoded, there = set(records), set(utt_ids)
    wrong = [f"{name}: not in {config.hyp}" for name in sorted(there - decoded)]
    wrong += [f"{name}: not in {config.data}" for name in sorted(decoded - there)]
    if wrong or not there:
        raise DataError(f"{config.hyp}: is no decoding of {config.data}:\n{summarize(wrong)}")
