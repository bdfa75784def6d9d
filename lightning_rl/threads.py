from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_thread() -> Iterator[None]:
    """Lets PyTorch compute in the calling thread alone.

    For acting: a product or a tanh of a few rows takes less time than handing half of it to another thread, which goes
    on spinning for a while after it, on a core that the environments could use.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
