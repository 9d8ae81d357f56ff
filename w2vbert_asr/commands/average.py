"""`w2vbert average`: the mean of an experiment's best checkpoints, as a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from w2vbert_asr import model_folder
from w2vbert_asr.training import checkpoint


@dataclass(frozen=True, kw_only=True)
class Config:
    """num: checkpoints to average, the best by the experiment's criterion on dev."""

    exp: Path
    out: Path
    num: int = 5

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        return [] if self.num > 0 else [f"num={self.num}: average at least one checkpoint"]


def run(config: Config) -> dict[str, object]:
    """Average weights in float64; whole numbers (counters) are taken from the best."""
    chosen = checkpoint.best(config.exp, config.num)
    mean = {name: tensor.clone() for name, tensor in checkpoint.load_weights(chosen[0]).items()}
    sums = {name: tensor.double() for name, tensor in mean.items() if tensor.is_floating_point()}
    for folder in chosen[1:]:
        weights = checkpoint.load_weights(folder)
        for name in sums:
            sums[name] += weights[name].double()
    for name, total in sums.items():
        mean[name] = (total / len(chosen)).to(mean[name].dtype)
    names = [folder.name for folder in chosen]
    model_folder.export_experiment(config.exp, config.out, mean, f"The mean of {', '.join(names)}.")
    print(f"{config.out}: mean of {', '.join(names)}")
    return {"checkpoints": names, "parameters": sum(torch.numel(tensor) for tensor in mean.values())}
