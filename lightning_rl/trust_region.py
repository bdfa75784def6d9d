import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, linearize, vjp

from lightning_rl.compilation import repeated_tracing
from lightning_rl.distributed import average as average_over_ranks

WORTH_LINEARIZING = 6144
"""States from which tracing a linearised network costs less than computing the network anew for every product: between
4,096 and 8,192 on one processor, more on another, with ten iterations and two layers of 64 units."""


class LineSearch(NamedTuple):
    """What a line search found."""

    fraction: float
    """Of the full step; zero if no trial was accepted."""
    gain: float
    """The surrogate objective's, at that fraction."""
    kl: float
    """The mean KL divergence from the old policy, at that fraction."""
    trials: int
    """Fractions evaluated."""


def natural_step(
    product: Callable[[Tensor], Tensor], gradient: Tensor, iterations: int, max_kl: float
) -> Tensor | None:
    """The longest step along F⁻¹ g that the quadratic model of the KL divergence allows.

    With x ≈ F⁻¹ g the step is β x, and β = √(2δ / xᵀFx) makes ½ (βx)ᵀ F (βx) = δ (Schulman et al. 2015, 1502.05477,
    appendix C). A damping in F counts in both places.

    Args:
        product: v to F v, ``[n]`` each, for the positive definite F.
        gradient: g of the objective that is to rise, ``[n]``.
        iterations: of conjugate gradient.
        max_kl: δ.

    Returns:
        ``[n]``; nothing where xᵀFx is not a positive number, so that no step can be scaled by it: the gradient is zero,
        a number is not finite, or the product is not that of a positive definite matrix.
    """
    direction = conjugate_gradient(product, gradient, iterations)
    curvature = float(direction @ product(direction))
    if not 0 < curvature < math.inf:
        return None
    return math.sqrt(2 * max_kl / curvature) * direction


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, residual_tolerance: float = 1e-10
) -> Tensor:
    """Solves A x = b approximately, from x = 0, for a symmetric positive definite A (1502.05477, appendix C).

    Args:
        product: v to A v, ``[n]`` each.
        b: ``[n]``.
        iterations: at most; n of them solve exactly, but for rounding.
        residual_tolerance: stops earlier once ‖b − A x‖² is at most this much of ‖b‖².

    Returns:
        ``[n]``.
    """
    x = torch.zeros_like(b)
    residual = direction = b
    square = residual @ residual
    enough = residual_tolerance * square
    for _ in range(iterations):
        if square <= enough:
            break
        image = product(direction)
        step = square / (direction @ image)
        x = x + step * direction
        residual = residual - step * image
        previous, square = square, residual @ residual
        direction = residual + square / previous * direction
    return x


def fisher_vector_product(
    distribution: Callable[[Sequence[Tensor]], Tensor],
    parameters: Sequence[Tensor],
    metric: Callable[[Tensor, Tensor], Tensor],
    damping: float,
    average: Callable[[Sequence[Tensor]], list[Tensor]] = average_over_ranks,
) -> Callable[[Tensor], Tensor]:
    """Makes v ↦ F v + damping · v, with F = mean over states of Jᵀ M J, the policy's Fisher information.

    J is the Jacobian of the distribution's parameters with respect to the policy's, M the distribution's own Fisher
    matrix, known in closed form. J v comes from forward mode, Jᵀ u from reverse mode, whose graph serves all products,
    so that nothing is differentiated twice (Schulman et al. 2015, 1502.05477, appendix C.1). With many states forward
    mode is traced once as well, for the same digits.

    Args:
        distribution: the policy's parameters to the distributions' at all of this rank's states, ``[…, P]``; whatever
            else it looks at stays as it is while products are taken.
        parameters: the policy's learned ones, where F is taken and stays, whatever becomes of them afterwards.
        metric: the distributions' parameters and a tangent to M · tangent, ``[…, P]`` each.
        damping: added to F's diagonal, so that it is positive definite.
        average: the mean of tensors over all ranks.

    Returns:
        A function of flat vectors, ``[n]`` to ``[n]``, in the parameters' order (`flatten`).
    """
    primals = [parameter.detach().clone() for parameter in parameters]
    point, pullback = vjp(distribution, primals)[:2]
    states = point.shape[:-1].numel()
    if states < WORTH_LINEARIZING:

        def pushforward(tangents: Sequence[Tensor]) -> Tensor:
            tangent: Tensor = jvp(distribution, (primals,), (tangents,))[1]
            return tangent

    else:
        with repeated_tracing():
            pushforward = linearize(distribution, primals)[1]

    def product(vector: Tensor) -> Tensor:
        tangent = pushforward(unflatten(vector, primals))
        (image,) = pullback(metric(point, tangent) / states)
        (mean,) = average([flatten(image)])
        return mean + damping * vector

    return product


def line_search(
    evaluate: Callable[[float], tuple[float, float]], steps: int, decay: float, max_kl: float
) -> LineSearch:
    """The first of the fractions 1, decay, decay², … at which the objective rises inside of the trust region.

    Schulman et al. 2015 (1502.05477), appendix C. A gain or a divergence that is not finite is never accepted.

    Args:
        evaluate: a fraction of the full step to the surrogate objective's gain and the mean KL divergence there, both
            over all ranks, so that every rank decides alike.
        steps: fractions tried at most.
        decay: in (0, 1).
        max_kl: δ.
    """
    for trial in range(steps):
        fraction = decay**trial
        gain, kl = evaluate(fraction)
        if math.isfinite(gain) and math.isfinite(kl) and gain > 0 and kl <= max_kl:
            return LineSearch(fraction, gain, kl, trial + 1)
    return LineSearch(0.0, 0.0, 0.0, steps)


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """One vector ``[n]`` of all the numbers of the tensors, one tensor after the other."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Undoes `flatten`: views of the vector ``[n]`` in the shapes of other tensors."""
    pieces = vector.split([tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]
