"""`w2vbert decode`: hypotheses of a data directory.

Which utterances make a batch is decided by the data and `batch_seconds` alone, and a batch is decoded by one process
with one thread. So the output depends neither on the number of processes nor on how often a run was killed: each
batch's results go to a journal beside the output as soon as they are there, and the same command goes on after them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from w2vbert_asr import model_folder
from w2vbert_asr.batch import FRAMES_PER_SECOND
from w2vbert_asr.commands.calibrate import read_calibration
from w2vbert_asr.data import batching, journal
from w2vbert_asr.data.faults import fault
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.data.files import atomic_dir, sha256
from w2vbert_asr.data.parallel import map_parallel, num_processes
from w2vbert_asr.data.tables import write_table
from w2vbert_asr.errors import DataError, ResourceError, summarize
from w2vbert_asr.recognizer import FRAME_SECONDS, Recognizer, load_model, pick_device
from w2vbert_asr.search import SearchConfig
from w2vbert_asr.training.lock import own

FORMAT = 3  # raise it when the same model and data would give other records
HYPOTHESES, CTM, RESULT, TIMING = "hyp.jsonl", "ctm", "decode.json", "timing.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """batch_seconds: padded audio decoded at once. num_best: hypotheses kept in hyp.jsonl.

    num_jobs: processes, each of one thread and with a model of its own; 0: as many as torch would use threads (the
    cores, or OMP_NUM_THREADS), on a GPU one. calibration: of confidences, a file of `w2vbert calibrate`. lm, lodr:
    language models (ARPA files or folders) to add with search.lm_weight, to take away with search.lodr_weight.
    """

    model: Path
    data: Path
    out: Path
    lm: Path | None = None
    lodr: Path | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    device: str = "auto"
    batch_seconds: float = 120.0
    num_best: int = 4
    num_jobs: int = 0
    calibration: Path | None = None

    def problems(self) -> list[str]:
        return [f"num_jobs: expected 0 or more, found {self.num_jobs}"] if self.num_jobs < 0 else []


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Batch `number`: these utterances, by their numbers."""

    number: int
    utterances: tuple[int, ...]


def run(config: Config) -> dict[str, object]:
    """Decode; write `text`, `hyp.jsonl`, `ctm`, `decode.json` and `timing.json`, whole or not at all.

    Records are in byte order of utt_id, and only `timing.json` has a clock in it. ResourceError if a process dies.
    """
    if config.out.exists() and not config.out.is_dir():
        raise DataError(f"{config.out}: is a file, and a folder is to be written there; choose another name")
    if config.calibration:
        read_calibration(config.calibration)  # before anything else is done
    device = pick_device(config.device).type
    began = time.perf_counter()
    folder = config.out.resolve()
    partial = folder.with_name(f".{folder.name}.journal")
    reader, digest = _reader(config.data), model_folder.digest(config.model)
    with own(partial, "decoding"):
        numbers = batching.batch_by_cost(reader.num_frames, config.batch_seconds * FRAMES_PER_SECOND, None)
        batches = [_Batch(number=place, utterances=tuple(several.tolist())) for place, several in enumerate(numbers)]
        done = journal.begin(partial, _task(config, reader, digest, device))
        left = [batch for batch in batches if batch.number not in done]
        if done:
            _log.info("%s: goes on, %d of %d batches are decoded", config.out, len(done), len(batches))
        usual = 1 if device == "cuda" else min(num_processes(0), torch.get_num_threads())
        num_jobs = max(min(config.num_jobs or usual, len(left)), 1)
        decode, crashed = (functools.partial(which, config, digest) for which in (_decode_batch, _crashed))
        try:
            for _ in map_parallel(decode, left, num_jobs, f"decode {config.data.name}", crashed):
                pass
        finally:
            _end_worker(config, digest)
        result = _write(config, reader, journal.read(partial), num_jobs, time.perf_counter() - began)
        fault("decode.before_cleanup")
        shutil.rmtree(partial)
    return result


def _reader(data: Path) -> FeatureReader:
    return FeatureReader([data], online=not (data / "feats.scp").is_file())


def _task(config: Config, reader: FeatureReader, model: str, device: str) -> dict[str, str]:
    """What decides the results. Features of the same utterances and lengths are known by the times of their files."""
    files = sorted({*config.data.glob("*.ark"), config.data / "feats.scp", config.data / "wav.scp"})
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    search = {**dataclasses.asdict(config.search), "batch_seconds": config.batch_seconds, "num_best": config.num_best}
    return {
        "format": str(FORMAT),
        "model": model,
        "search": hashlib.sha256(json.dumps(search, sort_keys=True).encode()).hexdigest(),
        "data": hashlib.sha256(json.dumps([reader.digest, stats]).encode()).hexdigest(),
        "calibration": sha256(config.calibration) if config.calibration else "",
        "language models": " ".join(_digest(path) for path in (config.lm, config.lodr)),
        "device or torch": f"{device} {torch.__version__}",
    }


def _digest(path: Path | None) -> str:
    """Of a language model: of a file, or of the files of a folder."""
    if path is None:
        return "none"
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return hashlib.sha256("".join(sha256(one) for one in files).encode()).hexdigest()


# --- in each process --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """What a process needs for all of its batches."""

    recognizer: Recognizer
    reader: FeatureReader
    results: journal.Writer


@functools.lru_cache(maxsize=1)
def _worker(config: Config, digest: str) -> _Worker:
    calibration = read_calibration(config.calibration) if config.calibration else None
    recognizer = load_model(config.model, config.device, config.search, calibration, config.lm, config.lodr)
    if recognizer.digest != digest:
        raise DataError(f"{config.model}: has changed while it was used; decode again, from a model folder (stage 5)")
    folder = config.out.resolve()
    results = journal.Writer(folder.with_name(f".{folder.name}.journal"))
    return _Worker(recognizer=recognizer, reader=_reader(config.data), results=results)


def _end_worker(config: Config, digest: str) -> None:
    """Let go of the one in this process, if there is one."""
    if _worker.cache_info().currsize:
        _worker(config, digest).results.close()
    _worker.cache_clear()


def _decode_batch(config: Config, digest: str, batch: _Batch) -> None:
    """Decode a batch and write its records to the journal."""
    with _one_thread():
        worker = _worker(config, digest)
        feats = [worker.reader.load(number) for number in batch.utterances]
        start = time.perf_counter()
        found = worker.recognizer.recognize(feats)
        seconds = time.perf_counter() - start
    records = []
    for number, one in zip(batch.utterances, found, strict=True):
        nbest = [
            {
                "text": worker.recognizer.tokenizer.decode(each.tokens),
                "token_ids": each.tokens,
                "score": each.score,
                "lm_score": each.lm_score,
            }
            for each in one.hypotheses[: config.num_best]
        ]
        record = {"utt_id": worker.reader.utt_ids[number], **dataclasses.asdict(one.transcript)}
        records.append((number, {**record, "capped": one.hypotheses[0].capped, "nbest": nbest}))
    worker.results.append(batch.number, {"seconds": seconds, "records": records})


def _crashed(config: Config, digest: str, batch: _Batch) -> None:
    """A batch that ended its process twice, the second time alone in it."""
    reader = _reader(config.data)
    names = summarize([reader.utt_ids[number] for number in batch.utterances])
    raise ResourceError(
        f"decoding a batch of {len(batch.utterances)} utterance(s) ends its process; if memory is short, use a smaller "
        f"batch_seconds or fewer --num-jobs; what is decoded stays, and the same command goes on:\n{names}"
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over several threads would depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- the output -------------------------------------------------------------------------------------------------------


def _write(
    config: Config, reader: FeatureReader, batches: Mapping[int, Any], num_jobs: int, wall_seconds: float
) -> dict[str, object]:
    """The files of the output, from the results of all batches.

    Seconds of decoding are summed over processes and over runs that were killed; wall_seconds are those of this run.
    """
    records = dict(pair for number in sorted(batches) for pair in batches[number]["records"])
    records = {number: records[number] for number in sorted(records)}
    audio = int(reader.num_frames.sum()) / FRAMES_PER_SECOND
    seconds = sum(batch["seconds"] for batch in batches.values())
    result: dict[str, object] = {
        "utterances": len(records),
        "audio_seconds": round(audio, 2),
        "capped": sum(bool(record["capped"]) for record in records.values()),
        "empty": sum(not record["text"] for record in records.values()),
    }
    timing = {
        "seconds": round(seconds, 2),
        "real_time_factor": round(seconds / max(audio, FRAME_SECONDS), 4),
        "processes": num_jobs,
        "wall_seconds": round(wall_seconds, 2),
    }
    with atomic_dir(config.out) as folder:
        write_table(folder / "text", {record["utt_id"]: record["text"] for record in records.values()})
        _write_lines(folder / HYPOTHESES, (json.dumps(one, ensure_ascii=False) for one in records.values()))
        _write_lines(
            folder / CTM, (line for one in records.values() for line in ctm_lines(one["utt_id"], one["words"]))
        )
        settings = {"search": dataclasses.asdict(config.search), **result}
        _write_lines(folder / RESULT, [json.dumps(settings)])
        _write_lines(folder / TIMING, [json.dumps(timing)])
    print(
        f"{config.out}: {len(records)} utterances, {audio:.0f} s of audio in {seconds:.1f} s, "
        f"real-time factor {timing['real_time_factor']}"
    )
    if result["capped"]:
        _log.warning(
            "%s hypotheses reached the limit of tokens and may be wrong there (capped in %s): raise "
            "search.max_length_ratio, max_symbols_per_frame (greedy, beam) or maes_steps, or train longer",
            result["capped"],
            HYPOTHESES,
        )
    if result["empty"] == len(records):
        _log.warning("every hypothesis is empty: the model has learned to emit blank only; train it longer")
    return {**result, **timing}


def ctm_lines(utt_id: str, words: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The words of an utterance in NIST's format: utterance, channel, start, duration, word, confidence."""
    for one in words:
        yield f"{utt_id} 1 {one['start']:.2f} {one['end'] - one['start']:.2f} {one['word']} {one['confidence']:.4f}"


def _write_lines(path: Path, lines: Iterator[str] | Sequence[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
