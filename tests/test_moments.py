import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lightning_rl import moments as module
from lightning_rl.moments import Moments, Normalizer, ReturnScaler, merge, moments, pooled

SEEDS = st.integers(0, 2**32 - 1)


def vectors(seed: int, *shape: int, offset: float = 0.0) -> Tensor:
    return offset + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(a: Moments, b: Moments, rtol: float = 1e-12) -> None:
    for name in ("mean", "variance", "count"):
        assert_close(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol, msg=name)


def test_moments_are_taken_over_all_leading_dimensions() -> None:
    x = torch.tensor([[[1.0, 10.0], [3.0, 10.0]], [[5.0, 10.0], [7.0, 14.0]]])
    taken = moments(x)
    assert taken.mean.tolist() == [4.0, 11.0]
    assert taken.variance.tolist() == [5.0, 3.0]
    assert taken.count == 4


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 20), st.integers(1, 20))
def test_merging_two_sets_gives_the_moments_of_their_union(seed: int, first: int, second: int) -> None:
    x = vectors(seed, first + second, 3)
    assert_same(merge(moments(x[:first]), moments(x[first:])), moments(x))


def test_merging_does_not_cancel_where_the_mean_is_far_from_zero() -> None:
    x = vectors(0, 1000, 1, offset=1e6)
    merged = merge(moments(x[:400]), moments(x[400:]))
    assert_close(merged.variance, (x - x.mean()).square().mean(0), rtol=1e-9, atol=0)


def test_pooling_gives_every_rank_the_moments_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [vectors(0, 7, 3), vectors(1, 20, 3, offset=2.0)]
    sent: list[list[Tensor]] = []
    monkeypatch.setattr(module, "average", lambda tensors: sent.append(tensors) or tensors)
    for rank in ranks:
        pooled(moments(rank))
    averages = [torch.stack(tensors).mean(0) for tensors in zip(*sent, strict=True)]
    monkeypatch.setattr(module, "average", lambda tensors: averages)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    together = moments(torch.cat(ranks))
    for rank in ranks:
        found = pooled(moments(rank))
        assert_close(found.mean, together.mean, rtol=1e-12, atol=1e-12)
        assert_close(found.variance, together.variance, rtol=1e-12, atol=1e-12)
        assert found.count == 27


def test_pooling_without_other_ranks_changes_nothing() -> None:
    local = moments(vectors(0, 50, 4))
    assert_same(pooled(local), local)


def test_normalizer_passes_observations_through_before_its_first_update() -> None:
    assert_close(Normalizer(2)(torch.tensor([0.5, -3.0])), torch.tensor([0.5, -3.0]))


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 8))
def test_normalizer_holds_the_moments_of_all_it_was_shown(seed: int, updates: int) -> None:
    x = vectors(seed, updates, 16, 3, offset=5.0)
    normalizer = Normalizer(3)
    for batch in x:
        normalizer.update(moments(batch))
    everything = x.flatten(0, 1)
    assert normalizer.count == 16 * updates
    assert_close(normalizer.mean, everything.mean(0).float())
    assert_close(normalizer.variance, everything.var(0, correction=0).float())
    expected = (everything - everything.mean(0)) / everything.std(0, correction=0)
    assert_close(normalizer(everything.float()), expected.float().clamp(-10, 10), rtol=1e-4, atol=1e-5)


def test_normalizer_loses_little_in_many_updates_of_observations_far_from_zero() -> None:
    normalizer = Normalizer(1)
    x = vectors(0, 5000, 16, 1, offset=100.0)
    for batch in x:
        normalizer.update(moments(batch))
    assert abs(float(normalizer.mean) - float(x.mean())) < 1e-3  # of a standard deviation
    assert_close(normalizer.variance.double(), x.var((0, 1), correction=0), rtol=1e-3, atol=0)


def test_normalizer_keeps_the_observations_dtype_and_clips_at_ten() -> None:
    normalizer = Normalizer(1)
    normalizer.update(moments(torch.tensor([[0.0], [2.0]])))
    for dtype in (torch.float32, torch.float64):
        normalized = normalizer(torch.tensor([[2.0], [1e6], [-1e6]], dtype=dtype))
        assert_close(normalized, torch.tensor([[1.0], [10.0], [-10.0]], dtype=dtype))


def test_normalizer_goes_on_from_its_state_dict() -> None:
    normalizer, restored = Normalizer(3), Normalizer(3)
    normalizer.update(moments(vectors(0, 10, 3)))
    restored.load_state_dict(normalizer.state_dict())
    for each in (normalizer, restored):
        each.update(moments(vectors(1, 10, 3)))
    assert all(torch.equal(a, b) for a, b in zip(normalizer.buffers(), restored.buffers(), strict=True))


def discounted_returns(reward: Tensor, ended: Tensor, gamma: float) -> Tensor:
    """Every environment by itself, each episode's return so far as a sum."""
    returns = torch.zeros_like(reward)
    for env in range(reward.shape[1]):
        begin = 0
        for step in range(len(reward)):
            returns[step, env] = sum(gamma ** (step - k) * float(reward[k, env]) for k in range(begin, step + 1))
            if ended[step, env]:
                begin = step + 1
    return returns


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 12), st.integers(1, 3))
def test_rewards_are_divided_by_the_deviation_of_all_discounted_returns_so_far(
    seed: int, steps: int, num_envs: int
) -> None:
    reward = vectors(seed, 2 * steps, num_envs, offset=1.0)
    ended = vectors(seed + 1, 2 * steps, num_envs) > 0.8
    scaler = ReturnScaler(0.9, num_envs)
    first, second = (scaler.scale(r, e) for r, e in zip(reward.split(steps), ended.split(steps), strict=True))
    returns = discounted_returns(reward, ended, 0.9)
    for scaled, given_reward, seen in ((first, reward[:steps], returns[:steps]), (second, reward[steps:], returns)):
        assert_close(scaled, given_reward / (seen.var(correction=0) + 1e-8).sqrt(), rtol=1e-9, atol=0)


def test_one_divisor_holds_for_a_whole_rollout() -> None:
    reward = vectors(0, 20, 2)
    scaled = ReturnScaler(0.99, 2).scale(reward.float(), torch.zeros(20, 2, dtype=torch.bool))
    assert scaled.dtype == torch.float32
    ratio = reward.float() / scaled
    assert_close(ratio, ratio[0, 0].expand_as(ratio))


def test_return_scaler_goes_on_from_its_state_dict() -> None:
    reward, ended = vectors(0, 2, 10, 3), vectors(1, 2, 10, 3) > 1
    scaler, restored = ReturnScaler(0.99, 3), ReturnScaler(0.99, 3)
    scaler.scale(reward[0], ended[0])
    restored.load_state_dict(scaler.state_dict())
    assert torch.equal(scaler.scale(reward[1], ended[1]), restored.scale(reward[1], ended[1]))


def test_a_return_that_was_given_up_is_forgotten() -> None:
    scaler = ReturnScaler(0.5, 2)
    never = torch.zeros(1, 2, dtype=torch.bool)
    scaler.scale(torch.ones(1, 2), never)
    scaler.begin(torch.tensor([True, False]))
    scaler.scale(torch.ones(1, 2), never)
    assert scaler.state_dict()["discounted_return"].tolist() == [1.0, 1.5]
