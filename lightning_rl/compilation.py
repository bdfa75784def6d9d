import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
import torch._dynamo
from lightning.pytorch.utilities import rank_zero_warn

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function of fixed shapes under ``torch.compile``, gradients that it takes by ``torch.autograd.grad`` included.

    It is compiled at its first call, and again if its arguments' shapes, or the numbers it reads, change.
    """
    # PyTorch leaves `torch.autograd.grad` out of its graphs unless it is asked to trace it.
    torch._dynamo.config.trace_autograd_ops = True
    result: Callable[Arguments, Result] = torch.compile(function, dynamic=False)
    return result


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` works here, tried with one sum; a warning says why it does not."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        rank_zero_warn(f"compile=True needs a newer PyTorch than {torch.__version__}: updates run uncompiled.")
        return False
    try:
        with warnings.catch_warnings():  # PyTorch's compiler, when it is first imported, uses what PyTorch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.compile(_probe)(torch.zeros(1, device=device))
    except Exception as error:  # whatever a compiler or its absence brings
        reason = str(error).strip().partition("\n")[0]
        rank_zero_warn(
            f"compile=True, but torch.compile does not work here: updates run uncompiled. {type(error).__name__}: "
            f"{reason} (On the CPU it needs a C++ compiler such as g++.)"
        )
        return False
    return True


def traced_in_one_mode() -> AbstractContextManager[Any]:
    """What `torch.func.linearize` traces within is traced faster: one mode of fake tensors serves all its operations.

    Where PyTorch's tracer finds none it makes one for each, and each looks through the whole stack of calls, which is
    deep under Lightning.
    """
    try:
        from torch._guards import TracingContext, tracing
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:  # they are PyTorch's own affair: without them it takes longer, no more
        return nullcontext()
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x + 1
