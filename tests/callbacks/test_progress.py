from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lightning_rl import SACModule
from lightning_rl.callbacks import progress


@pytest.mark.parametrize(
    ("seconds_an_item", "shown"), [(0.0, [0, 14]), (0.1, [0, 3, 6, 9, 12, 14]), (9.0, [*range(15)])]
)
def test_the_bar_is_brought_up_to_date_no_more_often_than_it_is_drawn(
    small_sac: Callable[..., SACModule],
    quiet_trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    seconds_an_item: float,
    shown: list[int],
) -> None:
    brought: list[int] = []
    passed = 0.0

    class Clock(progress.RLProgressBar):
        def on_train_batch_end(self, *arguments: Any) -> None:
            nonlocal passed
            super().on_train_batch_end(*arguments)
            passed += seconds_an_item

    monkeypatch.setattr(progress.time, "monotonic", lambda: passed)
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", lambda *arguments: brought.append(arguments[-1]))
    module = small_sac(num_envs=1, train_freq=1, steps_per_epoch=15)
    quiet_trainer(max_epochs=1, enable_progress_bar=True, callbacks=[Clock()]).fit(module)
    assert brought == shown
