"""`w2vbert decode`: hypotheses of a data directory."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from w2vbert_asr.batch import FRAMES_PER_SECOND
from w2vbert_asr.data import batching
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.data.tables import write_table
from w2vbert_asr.recognizer import FRAME_SECONDS, load_model
from w2vbert_asr.search import SearchConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """batch_seconds: padded audio decoded at once. num_best: hypotheses kept in hyp.jsonl."""

    model: Path
    data: Path
    out: Path
    search: SearchConfig = field(default_factory=SearchConfig)
    device: str = "auto"
    batch_seconds: float = 120.0
    num_best: int = 4


def run(config: Config) -> dict[str, object]:
    """Decode in batches of like length; write `text` and `hyp.jsonl`, sorted by utterance, whole or not at all."""
    recognizer = load_model(config.model, config.device, config.search)
    reader = FeatureReader([config.data], online=not (config.data / "feats.scp").is_file())
    batches = batching.batch_by_cost(reader.num_frames, config.batch_seconds * FRAMES_PER_SECOND, None)
    records: dict[int, dict[str, object]] = {}
    seconds = 0.0
    for numbers in tqdm(batches, desc=f"decode {config.data.name}", unit="batch", disable=None):
        batch = numbers.tolist()
        feats = [reader.load(index) for index in batch]
        start = time.perf_counter()
        found = recognizer.decode(feats)
        seconds += time.perf_counter() - start
        for index, hypotheses in zip(batch, found, strict=True):
            best = recognizer.transcript(hypotheses[0])
            records[index] = {
                "utt_id": reader.utt_ids[index],
                **dataclasses.asdict(best),
                "capped": hypotheses[0].capped,
                "nbest": [
                    {"text": recognizer.transcript(one).text, "token_ids": one.tokens, "score": one.score}
                    for one in hypotheses[: config.num_best]
                ],
            }
    audio = int(reader.num_frames.sum()) / FRAMES_PER_SECOND
    result: dict[str, object] = {
        "utterances": len(records),
        "audio_seconds": round(audio, 2),
        "seconds": round(seconds, 2),
        "real_time_factor": round(seconds / max(audio, FRAME_SECONDS), 4),
        "capped": sum(bool(record["capped"]) for record in records.values()),
        "empty": sum(not record["text"] for record in records.values()),
    }
    with atomic_dir(config.out) as folder:
        write_table(folder / "text", {str(records[i]["utt_id"]): str(records[i]["text"]) for i in sorted(records)})
        lines = [json.dumps(records[index], ensure_ascii=False) + "\n" for index in sorted(records)]
        (folder / "hyp.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "decode.json").write_text(json.dumps({"search": dataclasses.asdict(config.search), **result}) + "\n")
    print(
        f"{config.out}: {len(records)} utterances, {audio:.0f} s of audio in {seconds:.1f} s, "
        f"real-time factor {result['real_time_factor']}"
    )
    if result["empty"] == len(records):
        _log.warning("every hypothesis is empty: the model has learned to emit blank only; train it longer")
    return result
