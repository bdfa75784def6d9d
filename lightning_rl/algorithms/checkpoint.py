"""What a checkpoint says of itself, and whether it fits."""

from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Box
from torch import Tensor

FORMAT = 1
"""The version of the layout that this package writes."""


def describe_spaces(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> str:
    """The spaces in words, the same words for spaces that one policy fits."""
    actions = str(action_space)
    if isinstance(action_space, Box):  # whose own text leaves out bounds that differ by dimension
        low, high = action_space.low.reshape(-1).tolist(), action_space.high.reshape(-1).tolist()
        actions = f"Box {action_space.shape} from {low} to {high}"
    return f"observations {observation_space.shape}, actions {actions}"


def require_compatible(checkpoint: dict[str, Any], algorithm: str, environment: str, spaces: str) -> None:
    """Refuses a checkpoint of a newer format, of another algorithm or of other spaces.

    Raises:
        ValueError: says what the checkpoint has and what was expected.
    """
    ours = checkpoint.get("lightning_rl")
    if ours is None or ours["format"] > FORMAT:
        found = "no format version of this package" if ours is None else f"format {ours['format']}"
        raise ValueError(
            f"the checkpoint has {found}, and this version of lightning_rl reads formats up to {FORMAT}: use the "
            "version that wrote it."
        )
    trained = ours.get("algorithm", algorithm)
    if trained != algorithm:
        raise ValueError(f"the checkpoint is of {trained}, and this module is {algorithm}: use {trained}Module.")
    if ours["spaces"] != spaces:
        raise ValueError(
            f"the checkpoint was trained on {ours['environment']} ({ours['spaces']}), and this module has "
            f"{environment} ({spaces}): give the module the checkpoint's environment."
        )


def require_same_run(checkpoint: dict[str, Any], environment: str, action_repeat: int) -> None:
    """Refuses to let training go on without experience, from that of another environment or of other held actions.

    Raises:
        ValueError: says what the checkpoint has and what to do.
    """
    if "experience" not in checkpoint:
        raise ValueError(
            "the checkpoint holds weights alone, from which training cannot go on: build the module with "
            "load_from_checkpoint and fit without ckpt_path to start from them."
        )
    ours = checkpoint["lightning_rl"]
    if ours["environment"] != environment:
        raise ValueError(
            f"the checkpoint was trained on {ours['environment']}, and this module has {environment}: training cannot "
            "go on in another environment. To start from its weights, build the module with load_from_checkpoint and "
            "fit without ckpt_path."
        )
    held = ours.get("action_repeat", 1)
    if held != action_repeat:
        raise ValueError(
            f"the checkpoint has action_repeat={held}, and this module action_repeat={action_repeat}: their rewards do "
            f"not go together. Go on with action_repeat={held}, or start from the weights: build the module with "
            "load_from_checkpoint and fit without ckpt_path."
        )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of PyTorch's own generators, from which a network of the user's may draw, such as dropout."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Undoes what was drawn since `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
