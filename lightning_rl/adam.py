"""Adam's step as a part of a compiled function."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer


class AdamState(NamedTuple):
    """The tensors that a step of Adam changes, one for each parameter, and its settings without the learning rate."""

    parameters: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: list[Tensor]
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decouples_decay: bool
    maximize: bool


def is_plain_adam(optimizer: Optimizer) -> bool:
    """Whether `take_step` does as the optimizer's own step: it is PyTorch's Adam or AdamW, in float32 on the CPU.

    PyTorch 2.13 compiles a function wrongly that changes a float64 number without dimensions, as log α would be.
    """
    if type(optimizer) not in (Adam, AdamW) or len(optimizer.param_groups) != 1:
        return False
    group = optimizer.param_groups[0]
    return not (
        group["amsgrad"]
        or group["differentiable"]
        or group["capturable"]
        or any(isinstance(beta, Tensor) for beta in group["betas"])
        or any(each.device.type != "cpu" or each.dtype != torch.float32 for each in group["params"])
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
    )


def adam_state(optimizer: Optimizer) -> AdamState:
    """What the optimizer remembers, begun if it has not taken a step.

    Args:
        optimizer: of which `is_plain_adam` is true.
    """
    group = optimizer.param_groups[0]
    if any(parameter not in optimizer.state for parameter in group["params"]):
        _begin(optimizer)
    states = [optimizer.state[parameter] for parameter in group["params"]]
    return AdamState(
        parameters=group["params"],
        exp_avgs=[state["exp_avg"] for state in states],
        exp_avg_sqs=[state["exp_avg_sq"] for state in states],
        steps=[state["step"] for state in states],
        betas=group["betas"],
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        decouples_decay=group["decoupled_weight_decay"],
        maximize=group["maximize"],
    )


def step_scales(optimizers: Sequence[Optimizer], steps: Sequence[int]) -> Tensor:
    """What a step of each is scaled by: its learning rate η, η / (1 − β₁ᵗ) and √(1 − β₂ᵗ).

    They are computed here, since a function would be compiled anew for each learning rate, and take the powers anew for
    every few weights.

    Args:
        optimizers: of which `is_plain_adam` is true.
        steps: t, the number of the step: 1 is an optimizer's first.

    Returns:
        ``[optimizers, 3]``, in float32.
    """
    scales: list[tuple[float, float, float]] = []
    for optimizer, t in zip(optimizers, steps, strict=True):
        group = optimizer.param_groups[0]
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        scales.append((lr, lr / (1 - beta1**t), math.sqrt(1 - beta2**t)))
    return torch.from_numpy(np.array(scales, np.float32))  # by way of NumPy in a third of the time


@torch.no_grad()
def take_step(state: AdamState, scale: Tensor, gradients: Sequence[Tensor], allowed: Tensor) -> None:
    """A step of Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1) or AdamW (1711.05101, algorithm 2).

    Args:
        state: changed in place.
        scale: of `step_scales`, ``[3]``.
        gradients: one for each parameter.
        allowed: ``[]``, boolean; where it is false nothing changes.
    """
    lr, step_size, correction = scale.unbind()
    beta1, beta2 = state.betas
    for weight, first, second, step, gradient in zip(
        state.parameters, state.exp_avgs, state.exp_avg_sqs, state.steps, gradients, strict=True
    ):
        g = -gradient if state.maximize else gradient
        if not state.decouples_decay:
            g = g + state.weight_decay * weight
        kept = weight - lr * state.weight_decay * weight if state.decouples_decay else weight
        new_first = first.lerp(g, 1 - beta1)
        new_second = beta2 * second + (1 - beta2) * g * g
        new_weight = kept - step_size * new_first / (new_second.sqrt() / correction + state.eps)
        for old, new in ((weight, new_weight), (first, new_first), (second, new_second), (step, step + 1)):
            old.copy_(torch.where(allowed, new, old))


def _begin(optimizer: Optimizer) -> None:
    """Lets the optimizer make its state, by a step of no length that is then forgotten."""
    group = optimizer.param_groups[0]
    lr, group["lr"] = group["lr"], 0.0
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    group["lr"] = lr
    for parameter in group["params"]:
        parameter.grad = None
        for value in optimizer.state[parameter].values():
            value.zero_()
