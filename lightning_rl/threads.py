import torch


class single_thread:  # noqa: N801, since it is used as torch.no_grad is
    """Lets PyTorch compute in the calling thread alone.

    For acting: a product or a tanh of a few rows takes less time than handing half of it to another thread, which goes
    on spinning for a while after it, on a core that the environments could use.
    """

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self._before)
