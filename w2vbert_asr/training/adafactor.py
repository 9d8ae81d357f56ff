"""Adafactor with a first moment (Shazeer and Stern 2018, "Adafactor", algorithms 4 and 5); torch's own has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Adafactor(Optimizer):
    """Second moments of a matrix as a row and a column; updates clipped at a root mean square of `clip_threshold`.

    The learning rate is absolute (no relative step, no parameter scale) and the decay of the second moment is fixed at
    betas[1], bias-corrected, as in W2V-BERT XXL (Chung et al. 2021: 0.9, 0.98). Weight decay is decoupled.
    A parameter of more than two dimensions is factored over its last two.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-30,
        weight_decay: float = 0.0,
        clip_threshold: float = 1.0,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "clip_threshold": clip_threshold
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["first"] = torch.zeros_like(parameter)
            if parameter.ndim >= 2:
                state["row"] = parameter.new_zeros(parameter.shape[:-1])
                state["column"] = parameter.new_zeros(parameter.shape[:-2] + parameter.shape[-1:])
            else:
                state["second"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        correction = 1.0 - beta2 ** state["step"]
        square = grad.square() + group["eps"]
        if parameter.ndim >= 2:
            row = state["row"].lerp_(square.mean(-1), 1.0 - beta2)
            column = state["column"].lerp_(square.mean(-2), 1.0 - beta2)
            # Never row times column: where a row has no gradient (a word piece that no batch has) that underflows to 0.
            of_row = torch.rsqrt(row / row.mean(-1, keepdim=True))
            update = grad * of_row[..., None] * torch.rsqrt(column / correction)[..., None, :]
        else:
            update = grad * torch.rsqrt(state["second"].lerp_(square, 1.0 - beta2) / correction)
        size = update.square().mean().sqrt()
        update /= (size / group["clip_threshold"]).clamp(min=1.0)
        first = state["first"].lerp_(update, 1.0 - beta1)
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(first, alpha=group["lr"])
