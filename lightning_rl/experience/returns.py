import torch
from torch import Tensor

from lightning_rl.recurrence import decayed_sums


def generalized_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """GAE(γ, λ): Â_t = Σ_{τ ≥ t} (γλ)^(τ−t) δ_τ with δ_τ = r_τ + γ V(s_{τ+1}) − V(s_τ), up to the episode's end.

    Schulman et al. 2016 (1506.02438), eq. 16. The slides weigh by γ^(τ−t), which is λ = 1.

    Args:
        reward: r, ``[steps, num_envs]``, in the order of time.
        value: V(s_t), ``[steps, num_envs]``.
        next_value: V(s_{t+1}) of the observation that the step led to, ``[steps, num_envs]``: where an episode ended
            its true last one, not the next episode's first one.
        terminated: ``[steps, num_envs]``, bool: no value lies beyond, whatever `next_value` says.
        ended: ``[steps, num_envs]``, bool: terminated or truncated, so that the next row is another episode's.
        gamma: the discount γ.
        gae_lambda: λ.

    Returns:
        Â, ``[steps, num_envs]``. What lies beyond a truncation and beyond the last row is in V(s_{t+1}) alone.
    """
    delta = reward + gamma * next_value.masked_fill(terminated, 0) - value
    return _sums_to_the_end(delta, ended, gamma * gae_lambda)


def monte_carlo_returns(reward: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, gamma: float) -> Tensor:
    """The value function's targets: Σ_{t ≤ τ < T} γ^(τ−t) r_τ + γ^(T−t) V(s_T), with T the episode's end.

    Where the episode terminated V(s_T) is zero; where it was truncated, or goes on beyond the last row, V(s_T) stands
    for the rest. The slides write γ^T for γ^(T−t).

    Args:
        reward: r, ``[steps, num_envs]``, in the order of time.
        next_value: V(s_{t+1}) of the observation that the step led to, ``[steps, num_envs]``: where an episode ended
            its true last one. Read only at truncations and in the last row.
        terminated: ``[steps, num_envs]``, bool.
        ended: ``[steps, num_envs]``, bool: terminated or truncated.
        gamma: the discount γ.

    Returns:
        ``[steps, num_envs]``.
    """
    cut = ended.clone()
    cut[-1] = True
    bootstrap = next_value.masked_fill(terminated | ~cut, 0)
    return _sums_to_the_end(reward + gamma * bootstrap, ended, gamma)


def _sums_to_the_end(x: Tensor, ended: Tensor, decay: float) -> Tensor:
    """y_t = x_t + decay · y_{t+1}, where y_{t+1} is zero after an episode's end and after the last row."""
    return decayed_sums(x.flip(0), ended.flip(0), decay, torch.zeros_like(x[0])).flip(0)
