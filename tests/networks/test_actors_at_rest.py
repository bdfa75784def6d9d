"""Actors at rest, and in compiled functions, are the actors themselves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import prune

from lightning_rl.networks import GaussianNetwork, SquashedGaussianActor

LOW, HIGH = np.float32([-1.0, 0.0, -8.0]), np.float32([3.0, 0.5, 8.0])  # asymmetric, of different scales


@pytest.mark.parametrize(
    ("what", "products"),
    [
        ("ours", 2),
        ("one deviation for all", 2),
        ("pruned", 3),
        ("a head without a bias", 3),
        ("a head of one's own", 3),
        ("no hidden layer", 1),
        ("a pruned layer", 2),
        ("a layer of one's own", 2),
        ("a trunk of one's own", 2),
    ],
)
def test_a_compiled_network_computes_both_heads_in_one_product(what: str, products: int) -> None:
    torch.manual_seed(0)
    network = GaussianNetwork(5, 3, () if what == "no hidden layer" else (16,), nn.ReLU)
    if what == "pruned":
        prune.random_unstructured(network.mean, "weight", 0.5)
    if what == "one deviation for all":
        network.log_std = nn.Linear(16, 1)
    if what == "a head without a bias":
        network.log_std = nn.Linear(16, 3, bias=False)
    if what == "a head of one's own":
        network.log_std = Doubled(16, 3)
    if what == "a pruned layer":
        prune.random_unstructured(network.trunk[0], "weight", 0.5)
    if what == "a layer of one's own":
        network.trunk[0] = Doubled(5, 16)
    if what == "a trunk of one's own":
        network.trunk = Doubled(5, 16)
    seen: list[int] = []
    with_bias: list[torch.fx.Node] = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        linear = [node for node in graph.graph.nodes if node.target is F.linear]
        seen.append(len(linear))
        with_bias.extend(node for node in linear if len(node.args) > 2 and node.args[2] is not None)
        return graph.forward

    observation = torch.randn(7, 5)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend=count, fullgraph=True)
    torch.testing.assert_close(compiled(observation), network(observation))
    assert seen == [products]
    if what in ("ours", "no hidden layer"):  # biases are added with the activation
        assert not with_bias
    gradients = []
    for forward in (compiled, network):
        mean, log_std = forward(observation)
        gradients.append(torch.autograd.grad((mean * log_std).sum(), list(network.parameters())))
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's compiler looks at it, where hooks interrupt it
@pytest.mark.parametrize("part", ["mean", "trunk", "trunk.0"])
def test_a_part_of_a_compiled_network_can_be_listened_to_backwards(part: str) -> None:
    network, calls = GaussianNetwork(5, 3, (16,), nn.ReLU), []
    network.get_submodule(part).register_full_backward_hook(lambda *each: calls.append(each))
    torch._dynamo.reset()
    mean, log_std = torch.compile(network, backend="eager")(torch.randn(7, 5, requires_grad=True))
    (mean * log_std).sum().backward()
    assert len(calls) == 1


class OwnNetwork(nn.Module):
    """Another network than ours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.network(observation)
        return mean + 1, log_std


class Doubled(nn.Linear):
    """A layer of one's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("what", ["ours", "of one's own", "pruned"])
def test_an_actor_at_rest_acts_as_it_always_does(what: str) -> None:
    torch.manual_seed(0)
    network = GaussianNetwork(5, 3, (16, 16), nn.ReLU)
    if what == "of one's own":
        network = OwnNetwork(network)
    if what == "pruned":  # which computes the weight anew whenever the layer is called
        prune.random_unstructured(network.mean, "weight", 0.5)
        torch.nn.init.normal_(network.mean.weight_orig)
    policy = SquashedGaussianActor(network, Box(LOW, HIGH))
    for rows in (1, 64):
        observation = 3 * torch.randn(rows, 5)
        assert torch.equal(policy.at_rest()(observation), policy(observation))


@pytest.mark.parametrize("what", ["ours", "of one's own", "pruned", "without a hidden layer"])
def test_an_actor_at_rest_explores_as_it_always_does_while_it_learns(what: str) -> None:
    torch.manual_seed(0)
    network: nn.Module = GaussianNetwork(5, 3, () if what == "without a hidden layer" else (16, 16), nn.ReLU)
    if what == "of one's own":
        network = OwnNetwork(network)
    if what == "pruned":
        prune.random_unstructured(network.log_std, "weight", 0.5)
    policy = SquashedGaussianActor(network, Box(LOW, HIGH))
    explore, to_environment = policy.explore_at_rest(), policy.to_environment_at_rest()
    for rows in (1, 64):
        observation, noise = 3 * torch.randn(rows, 5), torch.randn(rows, 3)
        with torch.no_grad():
            for parameter in policy.parameters():  # as an optimizer does, in place
                parameter.normal_()
        action = policy.explore(observation, noise)
        assert torch.equal(explore(observation, noise), action)
        assert torch.equal(to_environment(action), policy.to_environment(action))


class Halved(SquashedGaussianActor):
    """An actor of one's own, which explores half as far and acts half as strongly."""

    def explore(self, observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return super().explore(observation, noise / 2)

    def to_environment(self, action: torch.Tensor) -> torch.Tensor:
        return super().to_environment(action / 2)


def test_an_actor_of_ones_own_acts_its_own_way_at_rest() -> None:
    policy = Halved(GaussianNetwork(5, 3, (16,), nn.ReLU), Box(LOW, HIGH))
    observation, noise = torch.randn(4, 5), torch.randn(4, 3)
    action = policy.explore_at_rest()(observation, noise)
    assert torch.equal(action, policy.explore(observation, noise))
    assert torch.equal(policy.to_environment_at_rest()(action), policy.to_environment(action))
    assert torch.equal(policy.at_rest()(observation), policy(observation))
