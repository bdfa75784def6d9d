import linecache
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
import torch._dynamo
from lightning.pytorch.utilities import rank_zero_warn

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result], device_type: str) -> Callable[Arguments, Result]:
    """A function of fixed shapes under ``torch.compile``, gradients that it takes by ``torch.autograd.grad`` included.

    It is compiled at its first call, and again if its arguments' shapes, or the numbers it reads, change.

    Args:
        function: to be compiled.
        device_type: where it will run.
    """
    # PyTorch leaves `torch.autograd.grad` out of its graphs unless it is asked to trace it.
    torch._dynamo.config.trace_autograd_ops = True
    # On the CPU Python's calls between the kernels take a tenth of an update; on a GPU they run ahead of the kernels.
    # Checks of sizes take some hundredths: PyTorch has checked the inputs by then, and operators answer for their own.
    options: Any = {"cpp_wrapper": True, "size_asserts": False} if device_type == "cpu" else None
    result: Callable[Arguments, Result] = torch.compile(function, dynamic=False, options=options)
    return result


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` works here, tried with one sum; a warning says why it does not."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        rank_zero_warn(f"compile=True needs a newer PyTorch than {torch.__version__}: updates run uncompiled.")
        return False
    try:
        with warnings.catch_warnings():  # PyTorch's compiler, when it is first imported, uses what PyTorch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            compiled(_probe, device.type)(torch.zeros(1, device=device))
    except Exception as error:  # whatever a compiler or its absence brings
        reason = str(error).strip().partition("\n")[0]
        rank_zero_warn(
            f"compile=True, but torch.compile does not work here: updates run uncompiled. {type(error).__name__}: "
            f"{reason} (On the CPU it needs a C++ compiler such as g++.)"
        )
        return False
    return True


@contextmanager
def repeated_tracing() -> Iterator[None]:
    """Lets `torch.func.linearize` trace update for update: in less time, and without keeping every trace's text.

    PyTorch's tracer makes a mode of fake tensors for each operation if it finds none, and each looks through the whole
    stack of calls, which is deep under Lightning. And it keeps the source of whatever it made, 60 kB a trace, for ever.
    """
    try:
        from torch._guards import TracingContext, tracing
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.graph_module import _loader
    except ImportError:  # they are PyTorch's own affair: without them it takes longer and keeps more
        yield
        return
    before = set(_loader.eval_cache)
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        yield
    for text in _loader.eval_cache.keys() - before:
        del _loader.eval_cache[text]
        linecache.cache.pop(text, None)


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x + 1
