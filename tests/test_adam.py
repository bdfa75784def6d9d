"""Adam's step as a part of a compiled function is that of PyTorch's optimizers."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

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
        if t == 30:  # as a cycle of the momentum does
            optimizer.param_groups[0]["betas"] = expected.param_groups[0]["betas"] = (0.8, 0.95)
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


def test_a_state_is_begun_where_there_is_none_and_nothing_else_changes() -> None:
    weights = parameters()
    before = deepcopy(weights)
    optimizer, fresh = Adam(weights, lr=1e-2, weight_decay=0.5, eps=0.0, fused=True), parameters()
    kept = torch.ones_like(weights[0])
    optimizer.state[weights[0]].update(step=torch.tensor(3.0), exp_avg=kept, exp_avg_sq=kept)
    _ = optimizer.state[weights[1]]  # who looks there leaves an empty state behind
    state = adam_state(optimizer)
    torch.testing.assert_close(weights, before, rtol=0, atol=0)
    assert state.exp_avgs[0] is kept
    assert [float(step) for step in state.steps] == [3, 0, 0]
    begun: list[Tensor] = [*state.exp_avgs[1:], *state.exp_avg_sqs[1:]]
    assert len(begun) == 4
    assert not any(each.any() for each in begun)
    assert adam_state(optimizer).exp_avgs[2] is state.exp_avgs[2]
    expected = Adam(fresh, lr=1e-2)
    for parameter in fresh:
        parameter.grad = torch.ones_like(parameter)
    expected.step()
    assert expected.state[fresh[1]].keys() == optimizer.state[weights[1]].keys()


def test_what_is_more_than_adam_in_float32_is_left_to_itself() -> None:
    class Own(Adam):
        pass

    def hooked(each: list[Parameter]) -> Adam:
        optimizer = Adam(each)
        optimizer.register_step_post_hook(lambda *_: None)
        return optimizer

    def remembering_float64(each: list[Parameter]) -> Adam:
        optimizer = Adam(each)
        adam_state(optimizer)
        optimizer.state[each[0]]["step"] = torch.zeros((), dtype=torch.float64)
        return optimizer

    weights = parameters()
    assert all(is_plain_adam(each) for each in (Adam(weights), AdamW(weights, fused=True)))
    others = [
        SGD(weights),
        Own(weights),
        hooked(weights),
        Adam(weights, amsgrad=True),
        Adam(weights, differentiable=True),
        Adam(weights, betas=(torch.tensor(0.9), torch.tensor(0.999))),
        remembering_float64(weights),
        Adam([{"params": weights[:1]}, {"params": weights[1:], "lr": 1e-2}]),
        Adam(parameters(torch.float64)),
    ]
    assert not any(is_plain_adam(each) for each in others)


def test_hooks_of_all_optimizers_are_called_by_their_own_steps() -> None:
    optimizer = Adam(parameters())
    handle = register_optimizer_step_post_hook(lambda *_: None)
    try:
        assert not is_plain_adam(optimizer)
    finally:
        handle.remove()
    assert is_plain_adam(optimizer)
