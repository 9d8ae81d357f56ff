"""The optimizers of a model: its parameters split into named parts, each with its own optimizer and schedule."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from w2vbert_asr.errors import ConfigError, DataError, summarize
from w2vbert_asr.training.adafactor import Adafactor
from w2vbert_asr.training.distributed import shard_like
from w2vbert_asr.training.schedule import ScheduleName, lr_share

OptimizerName = Literal["adamw", "adam", "adafactor"]
_NO_STATE = "none"  # marks a parameter that has had no update yet, so that a lost state is never taken for it


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer and its schedule.

    peak_lr: learning rate at the end of the warm-up. betas, eps: of Adam, AdamW and Adafactor (which has its own eps).
    weight_decay: of matrices; norms and biases have none. warmup_steps: updates; null: warmup_share of the run.
    floor_share: of the peak, where cosine and linear end. delay_steps: updates before the warm-up, at learning rate 0.
    """

    name: OptimizerName = "adamw"
    peak_lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    schedule: ScheduleName = "cosine"
    warmup_steps: int | None = None
    warmup_share: float = 0.1
    floor_share: float = 0.05
    delay_steps: int = 0

    def problems(self) -> list[str]:
        """What is out of range."""
        ranges = {
            "peak_lr": self.peak_lr > 0,
            "betas": all(0 <= beta < 1 for beta in self.betas),
            "eps": self.eps > 0,
            "weight_decay": self.weight_decay >= 0,
            "warmup_steps": self.warmup_steps is None or self.warmup_steps >= 0,
            "warmup_share": 0 <= self.warmup_share <= 1,
            "floor_share": 0 <= self.floor_share <= 1,
            "delay_steps": self.delay_steps >= 0,
        }
        return [f"{key}={getattr(self, key)} is out of range" for key, fine in ranges.items() if not fine]

    def learning_rate(self, step: int, max_steps: int) -> float:
        """The learning rate of the update after `step` updates."""
        warmup = round(self.warmup_share * max_steps) if self.warmup_steps is None else self.warmup_steps
        update = step + 1 - self.delay_steps
        if update <= 0:
            return 0.0
        length = max_steps - self.delay_steps
        share = lr_share(self.schedule, update, warmup_steps=warmup, max_steps=length, floor_share=self.floor_share)
        return self.peak_lr * share


@dataclass(frozen=True, kw_only=True)
class Part:
    """The parameters whose names begin with one of `prefixes` (the longest that fits wins; "" fits all)."""

    config: OptimizerConfig
    prefixes: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Optimizers:
    """One optimizer a part, used as one. names: of the trainable parameters, by part, in the model's order."""

    parts: Mapping[str, Part]
    optimizers: dict[str, torch.optim.Optimizer]
    names: dict[str, dict[str, nn.Parameter]]
    max_steps: int
    parameters: list[nn.Parameter] = field(default_factory=list)

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """Set those of the update after `step` updates; returns them as `lr`, or as `lr_<part>` of several parts."""
        rates = {}
        for name, part in self.parts.items():
            rate = part.config.learning_rate(step, self.max_steps)
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate
            rates[f"lr_{name}" if len(self.parts) > 1 else "lr"] = rate
        return rates

    def step(self) -> None:
        """Update every part."""
        for optimizer in self.optimizers.values():
            optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The state as tensors, `<parameter>/<key>`."""
        state: dict[str, Tensor] = {}
        for part, optimizer in self.optimizers.items():
            for name, parameter in self.names[part].items():
                values = optimizer.state.get(parameter) or {_NO_STATE: torch.zeros(0)}
                state.update({f"{name}/{key}": value for key, value in values.items()})
        return state

    def load_state(self, state: Mapping[str, Tensor], where: str) -> None:
        """Restore what `state()` gave. Raises DataError naming each parameter whose state does not fit."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for full, value in state.items():
            name, _, key = full.rpartition("/")
            by_name.setdefault(name, {})[key] = value
        wanted = [name for names in self.names.values() for name in names]
        problems = [f"{name}: its state is missing" for name in wanted if name not in by_name]
        problems += [f"{name}: has a state, but is not trained" for name in by_name.keys() - set(wanted)]
        for part, optimizer in self.optimizers.items():
            for name, parameter in self.names[part].items():
                problems += _misfits(name, parameter, by_name.get(name, {}), optimizer)
        if problems:
            raise DataError(f"{where}: the optimizer's state cannot be restored:\n" + summarize(problems))
        for part, optimizer in self.optimizers.items():
            ordered = [self._name(part, parameter) for group in optimizer.param_groups for parameter in group["params"]]
            # Copies: memory that torch allocates is aligned alike in every run, memory mapped from a file is not.
            values = {
                index: {key: shard_like(value.clone(), self.names[part][name]) for key, value in by_name[name].items()}
                for index, name in enumerate(ordered)
                if _NO_STATE not in by_name[name]
            }
            optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})

    def _name(self, part: str, wanted: nn.Parameter) -> str:
        return next(name for name, parameter in self.names[part].items() if parameter is wanted)


def build(model: nn.Module, parts: Mapping[str, Part], max_steps: int) -> Optimizers:
    """The optimizers of a model's trainable parameters. Raises ConfigError for a part without any, or the reverse."""
    names = assign(model, parts)
    optimizers = {part: _build_one(parts[part].config, list(names[part].values())) for part in parts}
    every = [parameter for named in names.values() for parameter in named.values()]
    return Optimizers(parts, optimizers, names, max_steps, every)


def assign(model: nn.Module, parts: Mapping[str, Part]) -> dict[str, dict[str, nn.Parameter]]:
    """A model's trainable parameters by part and name. Raises ConfigError for a part without any, or the reverse."""
    names: dict[str, dict[str, nn.Parameter]] = {part: {} for part in parts}
    homeless = []
    for name, parameter in model.named_parameters():
        fitting = [(len(p), part) for part in parts for p in parts[part].prefixes if name.startswith(p)]
        if not parameter.requires_grad:
            continue
        if fitting:
            names[max(fitting)[1]][name] = parameter
        else:
            homeless.append(name)
    empty = [part for part in parts if not names[part]]
    problems = [f"{part}: no trainable parameter begins with {parts[part].prefixes}" for part in empty]
    problems += [f"{name}: belongs to no optimizer" for name in homeless]
    if problems:
        raise ConfigError("optimizers:\n" + summarize(problems))
    return names


def freeze(model: nn.Module, prefixes: Sequence[str]) -> list[str]:
    """Take the parameters that begin with one of `prefixes` out of training; returns their names.

    Raises ConfigError for a prefix that fits none.
    """
    every = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in every):
            near = difflib.get_close_matches(prefix, every, n=1, cutoff=0.0)
            raise ConfigError(f"freeze: no parameter begins with {prefix!r}; the nearest is {near[0]}")
    frozen = [name for name in every if name.startswith(tuple(prefixes))]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return frozen


def state_shapes(name: OptimizerName, shape: torch.Size) -> dict[str, torch.Size]:
    """What an optimizer keeps of a parameter of this shape: float32 tensors by key."""
    scalar = torch.Size([])
    if name != "adafactor":
        return {"step": scalar, "exp_avg": shape, "exp_avg_sq": shape}
    if len(shape) < 2:
        return {"step": scalar, "first": shape, "second": shape}
    return {"step": scalar, "first": shape, "row": shape[:-1], "column": torch.Size([*shape[:-2], shape[-1]])}


def _build_one(config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adafactor":
        return Adafactor(groups, lr=config.peak_lr, betas=config.betas)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.peak_lr, betas=config.betas, eps=config.eps, fused=True)


def _misfits(name: str, parameter: Tensor, state: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> list[str]:
    """What of a parameter's state the optimizer cannot take over."""
    if not state or _NO_STATE in state:
        return []
    wanted = state_shapes("adafactor" if isinstance(optimizer, Adafactor) else "adam", parameter.shape)
    found = {key: value.shape for key, value in state.items()}
    return [] if found == wanted else [f"{name}: found {found}, expected {wanted}"]
