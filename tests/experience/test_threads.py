"""Acting computes in one thread; environments and updates keep theirs."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_rl.experience.collector import Collector
from lightning_rl.experience.noise import ExplorationNoise
from lightning_rl.threads import single_thread


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_come_back_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="with 1 thread"), single_thread():
        raise RuntimeError(f"with {torch.get_num_threads()} thread")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("algorithm", ["sac", "trpo"])
def test_acting_alone_is_in_one_thread(
    request: pytest.FixtureRequest,
    quiet_trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
) -> None:
    module = request.getfixturevalue(f"small_{algorithm}")()
    seen: dict[str, set[int]] = {"acting": set(), "stepping": set(), "updating": set()}

    def watched(doing: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any) -> Any:
            seen[doing].add(torch.get_num_threads())
            return function(*arguments)

        return watch

    module.explore = watched("acting", module.explore)
    module.environment_units = watched("acting", module.environment_units)  # a tanh may be handed out, too
    monkeypatch.setattr(ExplorationNoise, "draw", watched("acting", ExplorationNoise.draw))
    monkeypatch.setattr(Collector, "step", watched("stepping", Collector.step))
    module.training_step = watched("updating", module.training_step)
    quiet_trainer(max_epochs=1, limit_val_batches=0, logger=False, enable_checkpointing=False).fit(module)
    assert seen == {"acting": {1}, "stepping": {2}, "updating": {2}}
