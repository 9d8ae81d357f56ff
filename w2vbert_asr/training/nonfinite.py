"""What is kept of a step whose loss or gradient is not finite, so that it can be opened and looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch

from w2vbert_asr.batch import Batch
from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.errors import DataError
from w2vbert_asr.losses.output import LossOutput
from w2vbert_asr.tensors import load_tensors
from w2vbert_asr.training.update import Update

WINDOW, LIMIT = 1000, 10
ADVICE = (
    "lower the peak learning rate, lengthen the warm-up, or train in fp32; the batches lie in nonfinite/, "
    "the checkpoints before them are whole"
)


def write_bundle(exp: Path, step: int, seed: int, rank: int, batches: Sequence[Batch], update: Update) -> Path:
    """Write the micro-batches of the update after `step` to `nonfinite/step-*-rank-*/` and return that folder."""
    target = exp / "nonfinite" / f"step-{step:08d}-rank-{rank:05d}"
    with atomic_dir(target) as folder:
        for micro, batch in enumerate(batches):
            names = ("feats", "feat_lens", "tokens", "token_lens")
            plain = {name: getattr(batch, name).cpu().contiguous() for name in names}
            safetensors.torch.save_file(plain, folder / f"micro-{micro:03d}.safetensors")
        summary = {
            "step": step,
            "seed": seed,
            "rank": rank,
            "grad_norm": shown(update.grad_norm),
            "micro_batches": [
                {"utt_ids": list(batch.utt_ids), "terms": terms(output)}
                for batch, output in zip(batches, update.outputs, strict=True)
            ],
        }
        (folder / "bundle.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return target


def read_bundle(folder: Path) -> tuple[int, list[Batch]]:
    """The number of updates before the step, and its micro-batches. DataError for anything but a whole bundle."""
    try:
        summary = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        batches = []
        for micro, one in enumerate(summary["micro_batches"]):
            tensors = load_tensors(folder / f"micro-{micro:03d}.safetensors")
            batches.append(
                Batch(
                    feats=tensors["feats"],
                    feat_lens=tensors["feat_lens"],
                    tokens=tensors["tokens"],
                    token_lens=tensors["token_lens"],
                    utt_ids=tuple(one["utt_ids"]),
                )
            )
        return int(summary["step"]), batches
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: no bundle of a step that was not finite ({error}); see nonfinite/ of it") from error


def terms(output: LossOutput) -> dict[str, dict[str, float | str]]:
    """The terms as plain data."""
    return {
        name: {"total": shown(float(term.total)), "count": float(term.count), "weight": term.weight}
        for name, term in output.terms.items()
    }


def shown(value: float) -> float | str:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else str(value)
