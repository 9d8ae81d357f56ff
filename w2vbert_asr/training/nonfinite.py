"""What is kept of a step whose loss or gradient is not finite, so that it can be opened and looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch

from w2vbert_asr.batch import Batch
from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.losses.output import LossOutput
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
            "grad_norm": _shown(update.grad_norm),
            "micro_batches": [
                {"utt_ids": list(batch.utt_ids), "terms": _terms(output)}
                for batch, output in zip(batches, update.outputs, strict=True)
            ],
        }
        (folder / "bundle.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return target


def _terms(output: LossOutput) -> dict[str, dict[str, float | str]]:
    return {
        name: {"total": _shown(float(term.total)), "count": float(term.count), "weight": term.weight}
        for name, term in output.terms.items()
    }


def _shown(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
