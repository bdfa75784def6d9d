"""Adam's step as a part of a compiled function is that of PyTorch's optimizers."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_rl.adam import adam_state, is_plain_adam, step_scales, take_step

TRUE, FALSE = torch.tensor(True), torch.tensor(False)


def parameters(dtype: torch.dtype = torch.float32) -> list[Parameter]:
    random = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(shape, generator=random, dtype=dtype)) for shape in ((3, 4), (4,), ())]


@pytest.mark.parametrize(
    "make",
    [
        lambda each: Adam(each, lr=1e-2, fused=True),
        lambda each: Adam(each, lr=1e-2, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
        lambda each: Adam(each, lr=1e-2, maximize=True),
        lambda each: AdamW(each, lr=1e-2, weight_decay=0.2),
    ],
)
def test_steps_are_those_of_pytorchs_optimizers(make: Callable[[Any], Optimizer]) -> None:
    ours, theirs = parameters(), parameters()
    optimizer, expected = make(ours), make(theirs)
    random = torch.Generator().manual_seed(1)
    for t in range(1, 51):
        if t == 20:  # as a schedule might
            optimizer.param_groups[0]["lr"] = expected.param_groups[0]["lr"] = 0.0
        if t == 25:
            optimizer.param_groups[0]["lr"] = expected.param_groups[0]["lr"] = 3e-3
        gradients = [torch.randn(each.shape, generator=random) for each in ours]
        take_step(adam_state(optimizer), step_scales([optimizer], [t])[0], gradients, TRUE)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        expected.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for parameter, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(optimizer.state[parameter], expected.state[reference], rtol=1e-5, atol=1e-6)
    assert optimizer.state_dict()["param_groups"] == expected.state_dict()["param_groups"]


def test_a_step_that_is_not_allowed_changes_nothing() -> None:
    weights = parameters()
    optimizer = Adam(weights, lr=1e-2, weight_decay=0.1)
    state = adam_state(optimizer)
    gradients = [torch.ones_like(each) for each in weights]
    take_step(state, step_scales([optimizer], [1])[0], gradients, TRUE)
    before = deepcopy((weights, optimizer.state_dict()["state"]))
    spoiled = [torch.full_like(each, torch.nan) for each in weights]
    take_step(state, step_scales([optimizer], [2])[0], spoiled, FALSE)
    torch.testing.assert_close((weights, optimizer.state_dict()["state"]), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_a_state_that_is_begun_is_one_before_the_first_step(kind: type[Adam]) -> None:
    weights = parameters()
    before = deepcopy(weights)
    optimizer = kind(weights, lr=1e-2, weight_decay=0.5, fused=True)
    state = adam_state(optimizer)
    torch.testing.assert_close(weights, before, rtol=0, atol=0)
    remembered: list[Tensor] = [*state.exp_avgs, *state.exp_avg_sqs, *state.steps]
    assert len(remembered) == 9
    assert not any(each.any() for each in remembered)
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert all(weight.grad is None for weight in weights)
    assert adam_state(optimizer).exp_avgs[0] is state.exp_avgs[0]


def test_what_is_more_than_adam_in_float32_is_left_to_itself() -> None:
    class Own(Adam):
        pass

    def hooked(each: list[Parameter]) -> Adam:
        optimizer = Adam(each)
        optimizer.register_step_post_hook(lambda *_: None)
        return optimizer

    weights = parameters()
    assert all(is_plain_adam(each) for each in (Adam(weights), AdamW(weights, fused=True)))
    others = [
        SGD(weights),
        Own(weights),
        hooked(weights),
        Adam(weights, amsgrad=True),
        Adam(weights, differentiable=True),
        Adam([{"params": weights[:1]}, {"params": weights[1:], "lr": 1e-2}]),
        Adam(parameters(torch.float64)),
    ]
    assert not any(is_plain_adam(each) for each in others)
