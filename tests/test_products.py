"""Matrix products by oneDNN keep float32's digits, or are not used."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_rl import TRPOModule, products
from lightning_rl.products import fast_products

SHAPES = [((256, 28), (28, 256)), ((256, 256), (256, 1)), ((2, 256, 256), (2, 256, 256)), ((2, 28, 64), (2, 64, 512))]


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_fast_products_are_float32_products(left: tuple[int, ...], right: tuple[int, ...], transposed: bool) -> None:
    random = torch.Generator().manual_seed(1)
    a, b = torch.randn(left, generator=random), torch.randn(right, generator=random)
    if transposed:  # in memory, as the products of a backward pass have them
        a, b = a.mT.contiguous().mT, b.mT.contiguous().mT
    with fast_products():
        product = a @ b
    exact = a.double() @ b.double()
    # Higham 2002, "Accuracy and Stability of Numerical Algorithms", eq. 3.13: n rounding errors of 2⁻²⁴ at most.
    bound = left[-1] * 2**-24 * (a.double().abs() @ b.double().abs())
    assert bool(((product - exact).abs() <= bound).all())


@contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("context", [float64_by_default(), torch.autocast("cpu", torch.bfloat16)])
def test_float32_products_are_tried_whatever_the_precision_of_who_asks_first(context: Any) -> None:
    matmul = pytest.importorskip("torch.backends.mkldnn").matmul
    tried: list[torch.dtype] = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
                tried.append(result.dtype)
            return result

    with context, Watched():
        products._are_exact.__wrapped__(matmul)
    assert tried.count(torch.float32) == 2
    assert torch.bfloat16 not in tried


def test_the_users_setting_comes_back() -> None:
    matmul = pytest.importorskip("torch.backends.mkldnn").matmul
    before = matmul.fp32_precision

    def fails() -> None:
        with fast_products():
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert matmul.fp32_precision == before


@pytest.mark.parametrize("value_batch_size", [1023, 1024])
def test_trpos_updates_have_them_but_for_small_minibatches(
    small_trpo: Callable[..., TRPOModule],
    quiet_trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    value_batch_size: int,
) -> None:
    matmul = pytest.importorskip("torch.backends.mkldnn").matmul
    before = matmul.fp32_precision
    monkeypatch.setattr(products, "_are_exact", lambda matmul: True)
    module = small_trpo(value_batch_size=value_batch_size, rollout_steps=512, steps_per_epoch=1024)
    seen: dict[str, set[str]] = {}

    def watch(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            seen.setdefault(name, set()).add(matmul.fp32_precision)
            return function(*arguments)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((module, "full_step"), (module.policy, "log_prob"), (module, "value_loss")):
        watch(owner, name)
    quiet_trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(module)
    of_minibatches = {"bf16" if value_batch_size == 1024 else before}
    assert seen == {"full_step": {"bf16"}, "log_prob": {"bf16"}, "value_loss": of_minibatches}
    assert matmul.fp32_precision == before
