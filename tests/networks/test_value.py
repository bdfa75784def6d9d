import torch
from torch.testing import assert_close

from lightning_rl.moments import moments
from lightning_rl.networks.value import ValueNetwork


def test_value_network_gives_one_number_an_observation() -> None:
    assert ValueNetwork(5)(torch.zeros(7, 3, 5)).shape == (7, 3)
    assert ValueNetwork(5, hidden_sizes=())(torch.zeros(5)).shape == ()


def test_value_network_looks_through_its_own_statistics() -> None:
    observation = 3 + 2 * torch.randn(100, 5)
    value = ValueNetwork(5, normalize_observations=True)
    assert value.normalizer is not None
    value.normalizer.update(moments(observation))
    normalised = (observation - observation.mean(0)) / observation.std(0, correction=0)
    assert_close(value(observation), value.network(normalised).squeeze(-1), rtol=1e-4, atol=1e-5)
