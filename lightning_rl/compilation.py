import linecache
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch._dynamo
import torch._inductor
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result], device_type: str) -> Callable[Arguments, Result]:
    """A function of fixed shapes under ``torch.compile``, gradients that it takes by ``torch.autograd.grad`` included.

    It is compiled at its first call, and again if its arguments' shapes, or the numbers it reads, change. On a GPU it
    is replayed as a CUDA graph, since launching its kernels takes longer than they do: see `between_replays`.

    Args:
        function: to be compiled.
        device_type: where it will run.
    """
    # PyTorch leaves `torch.autograd.grad` out of its graphs unless it is asked to trace it.
    torch._dynamo.config.trace_autograd_ops = True
    backend: Any = _recorded_inductor if device_type == "cpu" else "inductor"
    mode = "reduce-overhead" if device_type == "cuda" else None
    result: Callable[Arguments, Result] = torch.compile(function, dynamic=False, backend=backend, mode=mode)
    return result


def between_replays(function: Callable[Arguments, Sequence[Tensor]]) -> Callable[Arguments, list[Tensor]]:
    """A function that calls compiled ones on a GPU, with results that stay as they are.

    What a CUDA graph gives lies in the same memory at every replay. A call gives up whatever the one before was given
    by such graphs, and copies its own results.
    """

    def call(*arguments: Arguments.args, **settings: Arguments.kwargs) -> list[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return [result.clone() for result in function(*arguments, **settings)]

    return call


class Settled:
    """A compiled function for calls between which nothing changes but the numbers in tensors.

    Before each call of a compiled function PyTorch asks some nine hundred questions: whether modules, settings and
    tensors are still those that it was compiled for. Here it asks before two calls. If both ran one graph, whose inputs
    were the same tensors but for the arguments, the calls after them run that graph with theirs in the same places:
    whatever changed since, and whatever the function writes into modules other than into tensors, is passed by. No
    argument may be a tensor that the function also reads or changes by itself.

    Args:
        function: of `compiled`, tensors to tensors; any other one is called as it is.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._asked: _Call | None = None
        self._places: list[int] | None = None
        self._layouts: list[tuple[object, ...]] = []

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """What the function gives; PyTorch is asked again if the arguments' sizes or types are others."""
        layouts = [_layout(argument) for argument in arguments]
        if self._asked is None or self._places is None or layouts != self._layouts:
            return self._ask(arguments, layouts)
        graph, inputs = self._asked.graph, self._asked.inputs
        for place, argument in zip(self._places, arguments, strict=True):
            inputs[place] = argument
        return tuple(graph(*inputs))

    def _ask(self, arguments: tuple[Tensor, ...], layouts: list[tuple[object, ...]]) -> tuple[Tensor, ...]:
        before, self._asked, self._places = self._asked, None, None  # which a function that raises leaves behind
        with _recording() as calls:
            results = self._function(*arguments)
        if len(calls) == 1 and list(map(id, results)) == list(map(id, calls[0].outputs)):
            self._asked, self._layouts = calls[0]._replace(arguments=arguments), layouts
            self._places = None if before is None else _places(before, self._asked)
        return results


class _Call(NamedTuple):
    """A call of what the compiler made of a function's operations."""

    graph: Callable[..., Sequence[Tensor]]
    inputs: list[Any]
    """The arguments, and whatever else is read or changed, such as parameters, in the compiler's order."""
    outputs: Sequence[Tensor]
    arguments: tuple[Tensor, ...] = ()
    """The function's."""


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


def _places(one: _Call, other: _Call) -> list[int] | None:
    """Where the arguments stand among the graph's inputs, if two calls of one graph differ in them alone."""
    before = [_index(argument, one.inputs) for argument in one.arguments]
    places = [_index(argument, other.inputs) for argument in other.arguments]
    found = [place for place in places if place is not None]
    every_one_is_read_once = len(set(found)) == len(places)
    if one.graph is not other.graph or places != before or not every_one_is_read_once:
        return None
    inputs = enumerate(zip(one.inputs, other.inputs, strict=True))
    return found if all(place in found or first is second for place, (first, second) in inputs) else None


def _index(item: object, items: Sequence[object]) -> int | None:
    return next((index for index, each in enumerate(items) if each is item), None)


def _layout(tensor: Tensor) -> tuple[object, ...]:
    """What a graph takes for granted of an argument."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


_calls: list[_Call] | None = None


@contextmanager
def _recording() -> Iterator[list[_Call]]:
    """The calls of graphs that `_recorded_inductor` has compiled."""
    global _calls
    _calls = []
    try:
        yield _calls
    finally:
        _calls = None


def _recorded_inductor(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Sequence[Tensor]]:
    """PyTorch's compiler for the CPU, whose results tell `Settled` how they are called."""
    # Python's calls between the kernels take a tenth of an update on the CPU; on a GPU they run ahead of the kernels.
    # Checks of sizes take some hundredths: PyTorch has checked the inputs by then, and operators answer for their own.
    options = {"cpp_wrapper": True, "size_asserts": False}
    run: Any = torch._inductor.compile(graph, inputs, options=options)

    def call(*inputs: Any) -> Sequence[Tensor]:
        outputs: Sequence[Tensor] = run(*inputs)
        if _calls is not None:
            _calls.append(_Call(run, list(inputs), outputs))
        return outputs

    return call


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x + 1
