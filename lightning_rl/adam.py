"""Adam's step as a part of a compiled function."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


class AdamState(NamedTuple):
    """The tensors that a step of Adam changes, one for each parameter, and the settings that stay for a whole run."""

    parameters: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: list[Tensor]
    eps: float
    weight_decay: float
    decouples_decay: bool
    maximize: bool


def is_plain_adam(optimizer: Optimizer) -> bool:
    """Whether `take_step` does as the optimizer's own step: it is PyTorch's Adam or AdamW, in float32 on the CPU.

    PyTorch 2.13 compiles a function wrongly that changes a float64 number without dimensions, as log α or the count of
    steps would be.
    """
    if type(optimizer) not in (Adam, AdamW) or len(optimizer.param_groups) != 1:
        return False
    group = optimizer.param_groups[0]
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
    )
    special = ("amsgrad", "differentiable", "capturable")
    remembered = [value for state in optimizer.state.values() for value in state.values()]
    return (
        not any(hooks)
        and not any(group[name] for name in special)
        and not any(isinstance(beta, Tensor) for beta in group["betas"])
        and all(each.device.type == "cpu" and each.dtype == torch.float32 for each in (*group["params"], *remembered))
    )


def adam_state(optimizer: Optimizer) -> AdamState:
    """What the optimizer remembers, begun where it has not taken a step.

    Args:
        optimizer: of which `is_plain_adam` is true.
    """
    group = optimizer.param_groups[0]
    states = [optimizer.state[parameter] for parameter in group["params"]]
    for parameter, state in zip(group["params"], states, strict=True):
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    # Else a learning-rate schedule warns that no step was taken before its own: it asks whether `step` was called.
    vars(optimizer)["_opt_called"] = True
    return AdamState(
        parameters=group["params"],
        exp_avgs=[state["exp_avg"] for state in states],
        exp_avg_sqs=[state["exp_avg_sq"] for state in states],
        steps=[state["step"] for state in states],
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        decouples_decay=group["decoupled_weight_decay"],
        maximize=group["maximize"],
    )


def step_scales(optimizers: Sequence[Optimizer], steps: Sequence[int]) -> Tensor:
    """What schedules may change from one step to the next: η, η / (1 − β₁ᵗ), √(1 − β₂ᵗ), 1 − β₁, β₂ and 1 − β₂.

    As tensors, since a function is compiled anew for each other number; and with the powers taken here, in float64,
    because the compiler would take them once for every sixteen weights.

    Args:
        optimizers: of which `is_plain_adam` is true.
        steps: t, the number of the step: 1 is an optimizer's first.

    Returns:
        ``[optimizers, 6]``, in float32.
    """
    scales: list[tuple[float, ...]] = []
    for optimizer, t in zip(optimizers, steps, strict=True):
        group = optimizer.param_groups[0]
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        scales.append((lr, lr / (1 - beta1**t), math.sqrt(1 - beta2**t), 1 - beta1, beta2, 1 - beta2))
    return torch.from_numpy(np.array(scales, np.float32))  # by way of NumPy in a third of the time


@torch.no_grad()
def take_step(state: AdamState, scales: Tensor, gradients: Sequence[Tensor], allowed: Tensor) -> None:
    """A step of Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1) or AdamW (1711.05101, algorithm 2).

    Args:
        state: changed in place.
        scales: of `step_scales`, ``[6]``.
        gradients: one for each parameter.
        allowed: ``[]``, boolean; where it is false nothing changes.
    """
    lr, step_size, correction, one_minus_beta1, beta2, one_minus_beta2 = scales.unbind()
    for weight, first, second, step, gradient in zip(
        state.parameters, state.exp_avgs, state.exp_avg_sqs, state.steps, gradients, strict=True
    ):
        g = -gradient if state.maximize else gradient
        if not state.decouples_decay:
            g = g + state.weight_decay * weight
        kept = weight - lr * state.weight_decay * weight if state.decouples_decay else weight
        new_first = first.lerp(g, one_minus_beta1)
        new_second = beta2 * second + one_minus_beta2 * g * g
        new_weight = kept - step_size * new_first / (new_second.sqrt() / correction + state.eps)
        for old, new in ((weight, new_weight), (first, new_first), (second, new_second), (step, step + 1)):
            old.copy_(torch.where(allowed, new, old))
