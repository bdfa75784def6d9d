import gc
import linecache
import weakref
from collections.abc import Iterator

import pytest
import torch

from lightning_rl import TRPOModule
from lightning_rl.garbage import swept


class Knot:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_what_holds_itself_is_freed_and_the_collector_is_left_as_it_was(enabled: bool) -> None:
    if not enabled:
        gc.disable()
    held = []

    @swept()
    def work() -> weakref.ref[Knot]:
        held.append(Knot())
        knots = [Knot() for _ in range(10_000)]  # more than the collector would wait for
        assert not gc.isenabled()
        return weakref.ref(knots[0])

    freed = work()
    assert freed() is None
    assert held[0].itself is held[0]
    assert gc.isenabled() == enabled


def test_the_collector_works_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), swept():
        raise ZeroDivisionError
    assert gc.isenabled()


@pytest.mark.parametrize("worth_linearizing", [0, 10_000])
def test_an_update_leaves_no_activation_behind(worth_linearizing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_rl.trust_region.WORTH_LINEARIZING", worth_linearizing)
    module = TRPOModule(env="Pendulum-v1", num_envs=4, hidden_sizes=(37, 37), value_batch_size=64)

    def activations() -> int:
        return sum(issubclass(type(each), torch.Tensor) and each.shape == (512, 37) for each in gc.get_objects())

    parameters = list(module.learned().values())
    gradient = torch.ones(sum(parameter.numel() for parameter in parameters))
    gc.disable()
    assert module.full_step(torch.randn(128, 4, 3), parameters, gradient) is not None
    assert activations() == 0


def test_an_update_leaves_no_source_text_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_rl.trust_region.WORTH_LINEARIZING", 0)
    module = TRPOModule(env="Pendulum-v1", num_envs=4, value_batch_size=64)
    parameters = list(module.learned().values())
    gradient = torch.ones(sum(parameter.numel() for parameter in parameters))
    before = set(linecache.cache)
    assert module.full_step(torch.randn(128, 4, 3), parameters, gradient) is not None
    assert not {name for name in set(linecache.cache) - before if name.startswith("<eval_with_key>")}
