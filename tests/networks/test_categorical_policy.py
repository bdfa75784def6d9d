import torch
from gymnasium.spaces import Discrete, MultiDiscrete

from lightning_rl.networks.categorical_policy import CategoricalPolicy


def test_discrete_actions_are_counted_from_the_spaces_start() -> None:
    policy = CategoricalPolicy(5, Discrete(3, start=-1))
    actions = policy.to_environment(torch.arange(3).unsqueeze(-1))
    assert actions.tolist() == [[-1], [0], [1]]
    assert actions.dtype == torch.int64
    policy = CategoricalPolicy(5, MultiDiscrete([2, 3], start=[10, 20]))
    assert policy.to_environment(torch.tensor([1, 2])).tolist() == [11, 22]
