from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rl.distributed import average, world_size
from lightning_rl.recurrence import decayed_sums

EPSILON = 1e-8
CLIP = 10.0


@dataclass(frozen=True)
class Moments:
    """Mean and variance of vectors, and how many of them they were taken over."""

    mean: Tensor
    """``[size]``."""
    variance: Tensor
    """``[size]``: the mean square of the deviations, divided by the count itself."""
    count: Tensor
    """``[]``."""

    def to(self, other: Tensor) -> "Moments":
        """The same in another tensor's dtype and on its device."""
        return Moments(self.mean.to(other), self.variance.to(other), self.count.to(other))


def moments(x: Tensor) -> Moments:
    """The moments of the vectors ``[…, size]``, taken over all leading dimensions."""
    vectors = _precise(x).flatten(0, -2)
    variance, mean = torch.var_mean(vectors, dim=0, correction=0)
    return Moments(mean, variance, mean.new_tensor(len(vectors)))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of vectors together, one of which may be empty.

    Chan, Golub and LeVeque 1982, "Updating formulae and a pairwise algorithm for computing sample variances": nothing
    cancels, however far from zero the means are.
    """
    count = a.count + b.count
    share = b.count / count
    difference = b.mean - a.mean
    mean = a.mean + share * difference
    variance = (1 - share) * a.variance + share * b.variance + share * (1 - share) * difference.square()
    return Moments(mean, variance, count)


def pooled(local: Moments) -> Moments:
    """The moments of all ranks' vectors together, the same on every rank, from one collective.

    Args:
        local: this rank's moments, as `moments` gives them.
    """
    square = local.variance + local.mean.square()
    # The averages of n, n x̄ and n E[x²] are the pooled sums over one common divisor, which cancels in their ratios.
    count, total, squares = average([local.count, local.count * local.mean, local.count * square])
    mean = total / count
    # What cancels here is, in float64, less than the rounding that single-precision observations came with.
    return Moments(mean, (squares / count - mean.square()).clamp(min=0), count * world_size())


class Normalizer(nn.Module):
    """Observations with the running mean taken off and divided by the running standard deviation, clipped to ±10.

    The statistics are buffers, because a policy that normalises is no policy without them: its checkpoint and its
    exported file need them. Nothing but `update` changes them, so they are frozen while a rollout and its update last.
    Before the first `update` observations pass through, clipped.

    Args:
        size: numbers an observation.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        # Not float64, which some devices do not have; and an integer count survives a conversion to half precision.
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, observation: Tensor) -> Tensor:
        """``[…, size]`` to ``[…, size]``, in the observation's own dtype."""
        mean, variance = self.mean.to(observation.dtype), self.variance.to(observation.dtype)
        return ((observation - mean) / (variance + EPSILON).sqrt()).clamp(-CLIP, CLIP)

    def at_rest(self) -> Callable[[Tensor], Tensor]:
        """`forward`, to be used until the next `update`, on observations of the statistics' own dtype."""
        mean, deviation = self.mean.clone(), (self.variance + EPSILON).sqrt()
        return lambda observation: ((observation - mean) / deviation).clamp(-CLIP, CLIP)

    @torch.no_grad()
    def update(self, batch: Moments) -> None:
        """Takes more observations into account.

        Args:
            batch: their moments, over all ranks (`pooled`), so that the ranks' statistics stay the same.
        """
        held = Moments(self.mean, self.variance, self.count).to(batch.mean)
        together = merge(held, batch)
        self.mean.copy_(together.mean)
        self.variance.copy_(together.variance)
        self.count.copy_(together.count)


class ReturnScaler:
    """Rewards divided by the running standard deviation of the discounted return, their mean left alone.

    The discounted return of an environment is R ← γ R + r, from zero at an episode's first step, as in Gymnasium's
    ``NormalizeReward`` and Stable-Baselines3's ``VecNormalize``. They change the divisor at every step; here one
    divisor holds for a whole rollout, the rollout's own returns included.

    Args:
        gamma: the discount γ.
        num_envs: environments of this rank.
    """

    def __init__(self, gamma: float, num_envs: int) -> None:
        self.gamma = gamma
        self._discounted_return = torch.zeros(num_envs)
        self._moments = Moments(torch.zeros(1), torch.ones(1), torch.zeros(()))

    def scale(self, reward: Tensor, ended: Tensor) -> Tensor:
        """Takes a rollout into account, then scales its rewards.

        Args:
            reward: ``[steps, num_envs]``, in the order of time, following the previous call's.
            ended: ``[steps, num_envs]``, bool: terminated or truncated at this step.

        Returns:
            ``[steps, num_envs]``, in the reward's dtype.
        """
        returns = self._discounted_returns(_precise(reward), ended)
        self._moments = merge(self._moments.to(returns), pooled(moments(returns.unsqueeze(-1))))
        return (reward / (self._moments.variance + EPSILON).sqrt()).to(reward.dtype)

    def begin(self, where: Tensor) -> None:
        """Forgets the return of episodes that were given up; ``[num_envs]``, bool."""
        held = self._discounted_return
        self._discounted_return = held.masked_fill(where.to(held.device), 0)

    def state_dict(self) -> dict[str, Any]:
        """The statistics and the returns in flight, as tensors."""
        held = asdict(self._moments)
        return {
            "discounted_return": self._discounted_return.cpu(),
            "moments": {name: value.cpu() for name, value in held.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was called."""
        self._discounted_return = state["discounted_return"]
        self._moments = Moments(**state["moments"])

    def take_over(self, state: dict[str, Any]) -> None:
        """The statistics of `state_dict` without the returns in flight."""
        self._moments = Moments(**state["moments"])

    def _discounted_returns(self, reward: Tensor, ended: Tensor) -> Tensor:
        begins = ended.roll(1, dims=0)
        begins[0] = False  # the returns in flight are zero where an episode begins with the first row
        returns = decayed_sums(reward, begins, self.gamma, self._discounted_return)
        self._discounted_return = returns[-1].masked_fill(ended[-1], 0)
        return returns


def _precise(x: Tensor) -> Tensor:
    """In float64, in which sums over a whole run lose nothing; Apple's devices have float32 at most."""
    return x.float() if x.device.type == "mps" else x.double()
