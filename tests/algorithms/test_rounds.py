"""Items of several rounds are the same run as items of one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch import callbacks as lightning_callbacks

from lightning_rl import SACModule
from lightning_rl.algorithms.items import warn_of_uncrossed
from lightning_rl.algorithms.sac import UpdateSummary
from lightning_rl.environments import EnvironmentLostError
from lightning_rl.loggers import CSVLogger

SAC = Callable[..., SACModule]
MakeTrainer = Callable[..., Trainer]
LEARNED = ("state_dict", "optimizer_states", "global_step", "epoch")


class Counts(Callback):
    """Environment steps at the end of every item."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: SACModule, *_: Any) -> None:
        self.steps.append(pl_module.environment_steps)


def learned(trainer: Trainer) -> list[Any]:
    """What a run has learned, and lived through, as plain numbers."""
    trainer.save_checkpoint("state.ckpt", weights_only=False)
    checkpoint = torch.load("state.ckpt", weights_only=True)
    buffer = checkpoint["experience"]["buffer"]
    return [checkpoint[name] for name in LEARNED] + [buffer, checkpoint["lightning_rl"]["environment_steps"]]


@pytest.fixture
def run(small_sac: SAC, quiet_trainer: MakeTrainer) -> Callable[..., tuple[Trainer, Counts]]:
    """Trains with rounds of four steps and two updates, forty of them an epoch."""

    def train(
        rounds_per_item: int, checkpoint: str | Path | None = None, prepare: Any = None, **settings: Any
    ) -> tuple[Trainer, Counts]:
        seed_everything(2)
        counts = Counts()
        module = small_sac(train_freq=4, gradient_steps=2, rounds_per_item=rounds_per_item)
        if prepare is not None:
            prepare(module)
        settings = {"max_epochs": 2, "logger": CSVLogger(".", version="run"), "callbacks": [counts], **settings}
        trainer = quiet_trainer(**settings)
        trainer.fit(module, ckpt_path=checkpoint)
        return trainer, counts

    return train


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else bool(left == right)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_several_rounds_an_item_learn_what_single_ones_do(
    run: Callable[..., tuple[Trainer, Counts]], precision: str
) -> None:
    (one, each), (several, every_fifth) = run(1, precision=precision), run(5, precision=precision)
    assert each.steps == list(range(4, 324, 4))
    assert every_fifth.steps == list(range(20, 340, 20))
    assert several.global_step == 2 * (80 - 7)  # 28 steps of warm-up
    assert same(learned(one), learned(several))


def test_the_rounds_of_an_item_share_one_way_of_acting(run: Callable[..., tuple[Trainer, Counts]]) -> None:
    made: list[int] = []

    def counts(module: SACModule) -> None:
        make = module.acting_at_rest

        def counted() -> Any:
            made.append(module.environment_steps)
            return make()

        module.acting_at_rest = counted

    trainer, _ = run(5, prepare=counts, max_epochs=1)
    # For an item's first round, which Lightning's loop asks for, and once for all others.
    assert made == [step for item in range(0, 160, 20) for step in (item, item + 4)]
    assert trainer.lightning_module._policy_at_rest is None


@pytest.mark.parametrize("limit", [1, 6, 7])
def test_max_steps_ends_an_item_early(run: Callable[..., tuple[Trainer, Counts]], limit: int) -> None:
    (one, each), (several, _) = run(1, max_steps=limit), run(5, max_steps=limit)
    assert several.global_step == limit
    assert each.steps[-1] == several.lightning_module.environment_steps
    assert same(learned(one), learned(several))


@pytest.mark.parametrize("lost_at", [40, 48, 54])  # an item's first round, its third, the middle of its fourth
def test_an_item_that_was_broken_off_goes_on_where_it_was(
    run: Callable[..., tuple[Trainer, Counts]], lost_at: int
) -> None:
    unbroken, every_item = run(5)

    def breaks(module: SACModule) -> None:
        make = module.make_experience

        def fragile(run_seed: int) -> Any:
            experience = make(run_seed)
            step = experience.collector.step

            def lost(actions: np.ndarray) -> Any:
                if experience.collector.steps == lost_at:
                    raise EnvironmentLostError({}, 2)
                return step(actions)

            experience.collector.step = lost
            return experience

        module.make_experience = fragile

    with pytest.raises(EnvironmentLostError):
        run(5, prepare=breaks)
    Path("lightning_logs/run/checkpoints").rename("kept")
    assert torch.load("kept/last.ckpt", weights_only=True)["lightning_rl"]["environment_steps"] == lost_at
    resumed, counts = run(5, "kept/last.ckpt")
    assert counts.steps == [steps for steps in every_item.steps if steps > lost_at]
    assert resumed.global_step == unbroken.global_step
    assert resumed.fit_loop.epoch_loop.total_batch_idx == unbroken.fit_loop.epoch_loop.total_batch_idx


def test_rounds_that_are_not_counted_from_zero_make_items_too(run: Callable[..., tuple[Trainer, Counts]]) -> None:
    """As after a change of the number of ranks."""

    def later(module: SACModule) -> None:
        make = module.make_experience

        def experience(run_seed: int) -> Any:
            made = make(run_seed)
            made.collector.steps = 6
            return made

        module.make_experience = experience

    _, counts = run(5, prepare=later, max_epochs=1)
    assert counts.steps == [22, *range(42, 182, 20)]


def test_an_epoch_has_whole_items(run: Callable[..., tuple[Trainer, Counts]]) -> None:
    with pytest.raises(ValueError, match="steps_per_epoch=160: a multiple of the environment steps of an item"):
        run(3)
    with pytest.raises(ValueError, match="rounds_per_item=0"):
        run(0)


def test_what_is_said_of_limits_and_checkpoints(
    run: Callable[..., tuple[Trainer, Counts]], quiet_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    run(5, max_steps=20)
    assert "max_steps=20 may end the run within an item of 5 rounds" in caplog.text
    own = lightning_callbacks.ModelCheckpoint(every_n_train_steps=10)  # an item's updates, but not the first one's
    with pytest.warns(UserWarning, match="saves only where an item of 10 updates ends on a multiple"):
        warn_of_uncrossed(quiet_trainer(callbacks=[own]), updates_per_item=10, rounds_per_item=5)
    warn_of_uncrossed(quiet_trainer(callbacks=[own]), updates_per_item=10, rounds_per_item=1)


@pytest.mark.parametrize("limit", [16, 20])
def test_a_limit_within_an_item_is_told_of(
    small_sac: SAC, quiet_trainer: MakeTrainer, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    quiet_trainer(max_steps=limit).fit(small_sac())
    assert ("max_steps=20 ends the run within an item of 8 updates" in caplog.text) == (limit == 20)


@pytest.mark.parametrize(
    ("settings", "limits", "told"),
    [
        ({}, {}, "rounds_per_item=16 it would carry 16"),
        ({"steps_per_epoch": 2_000}, {}, "rounds_per_item=10 it would carry 10"),  # 16 do not divide 1,000 rounds
        ({"steps_per_epoch": 2 * 1_009}, {}, None),  # a prime number of rounds
        ({"steps_per_epoch": 1_998}, {}, None),
        ({"gradient_steps": 2}, {}, None),
        ({"rounds_per_item": 2}, {}, None),
        ({}, {"max_steps": 3}, None),
    ],
)
def test_items_of_one_update_are_told_of_where_there_are_many(
    small_sac: SAC,
    quiet_trainer: MakeTrainer,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, int],
    limits: dict[str, int],
    told: str | None,
) -> None:
    module = small_sac(**{"train_freq": 2, "gradient_steps": 1, "steps_per_epoch": 2_048, **settings})
    quiet_trainer(max_epochs=1, limit_train_batches=5, **limits).fit(module)
    assert ("carries one update" in caplog.text) == (told is not None)
    assert (told or "") in caplog.text


def test_nothing_of_an_items_gradients_is_kept(run: Callable[..., tuple[Trainer, Counts]]) -> None:
    kept: list[int] = []
    graphs: list[bool] = []

    def watch(module: SACModule) -> None:
        summary = module.summary

        def watching(done: Sequence[UpdateSummary]) -> dict[str, float]:
            kept.extend(sum(field.untyped_storage().nbytes() for field in each) for each in done)
            graphs.extend(field.requires_grad for each in done for field in each)
            return summary(done)

        module.summary = watching

    trainer, _ = run(5, prepare=watch, max_epochs=1)
    # Both losses, a mean value, and a log-probability for each transition.
    assert set(kept) == {4 * (3 + trainer.lightning_module.batch_size)}
    assert not any(graphs)


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"])
def test_a_batch_hook_sees_every_round(run: Callable[..., tuple[Trainer, Counts]], hook: str) -> None:
    seen: list[int] = []

    def watch(module: SACModule) -> None:
        def watched(batch: Any, *others: Any, **named: int) -> Any:  # Lightning's loop names the index for one of them
            seen.append(*named.values() or others[-1:])
            return batch

        setattr(module, hook, watched)

    run(5, prepare=watch, max_epochs=1, limit_val_batches=0)  # an evaluation's batches go through it too
    assert seen == [0] * 40
