import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def swept() -> Iterator[None]:
    """Frees at its end what was made meanwhile and is in use no more, objects that hold one another included.

    Python frees those only when its collector comes by, which counts objects and not what they hold: a few of them may
    keep gigabytes of tensors. Here it waits, so that all that was made stays in its youngest generation, and then goes
    through that one alone, in a millisecond or two. As a decorator it ends after the function's own variables.
    """
    enabled = gc.isenabled()
    try:
        gc.disable()
        yield
        gc.collect(0)
    finally:
        if enabled:
            gc.enable()
