from typing import Any

import gymnasium as gym
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from lightning_rl.networks.categorical_policy import CategoricalPolicy
from lightning_rl.networks.gaussian_policy import GaussianPolicy
from lightning_rl.networks.mirror import Mirror
from lightning_rl.networks.policy import Policy


def make_policy(
    name: str,
    action_space: gym.Space[Any],
    observation_size: int,
    squash_actions: bool,
    mirror: Mirror | None,
    **settings: Any,
) -> Policy:
    """The policy that an action space asks for.

    Raises:
        TypeError: there is none, or the mirror is something else.
        ValueError: choices are to be squashed or mirrored, or the mirror does not fit.
    """
    if not isinstance(mirror, Mirror | None):
        raise TypeError(f"mirror={mirror!r}: a lightning_rl.Mirror or None was expected.")
    if isinstance(action_space, Box):
        return GaussianPolicy(observation_size, action_space, squash_actions=squash_actions, mirror=mirror, **settings)
    if isinstance(action_space, Discrete | MultiDiscrete):
        if mirror is not None:
            raise ValueError(
                f"mirror={mirror}: {name} has the action space {action_space}, and choices are not mirrored: leave "
                "mirror at None."
            )
        if squash_actions:
            raise ValueError(
                f"squash_actions=True: {name} has the action space {action_space}, and choices are not squashed: leave "
                "squash_actions at False."
            )
        return CategoricalPolicy(observation_size, action_space, **settings)
    raise TypeError(
        f"{name} has the action space {type(action_space).__name__}, and TRPO acts in Box, Discrete and MultiDiscrete: "
        "wrap the environment so that its actions are one of these."
    )
