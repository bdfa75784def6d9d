from collections.abc import Callable

import torch
from lightning.pytorch import Trainer
from torch.optim import Adam

from lightning_rl import SACModule
from lightning_rl.denormals import flush_denormals

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def denormals(optimizer: torch.optim.Optimizer) -> int:
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(int(((value != 0) & (value.abs() < SMALLEST_NORMAL)).sum()) for value in states)


def test_moments_of_weights_without_gradients_are_flushed_and_no_weight_notices() -> None:
    def train(flushes: bool) -> tuple[Adam, torch.Tensor, int]:
        weights = torch.nn.Parameter(torch.linspace(-1, 1, 8))
        optimizer, seen = Adam([weights], lr=1e-3), 0
        for update in range(1_500):
            weights.grad = torch.linspace(-1, 1, 8)
            if update > 10:
                weights.grad[:4] = 0  # as if a unit had died
            if flushes and update % 50 == 0:
                flush_denormals(optimizer)
            optimizer.step()
            seen = max(seen, denormals(optimizer))
        return optimizer, weights.detach(), seen

    plain, expected, seen = train(False)
    assert denormals(plain) == seen == 4  # they stay: 0.9 of the smallest number rounds to itself
    flushed, weights, _ = train(True)
    assert denormals(flushed) == 0
    assert torch.equal(weights, expected)
    kept, others = flushed.state_dict()["state"][0], plain.state_dict()["state"][0]
    assert torch.equal(kept["exp_avg"][4:], others["exp_avg"][4:])
    assert torch.equal(kept["exp_avg_sq"], others["exp_avg_sq"])


def test_sac_flushes_its_optimizers_now_and_then(
    small_sac: Callable[..., SACModule], quiet_trainer: Callable[..., Trainer]
) -> None:
    module = small_sac()
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(module)
    item = module.next_item()
    nothing = item._replace(batch=type(item.batch)(*(field[:0] for field in item.batch)))
    for optimizer in trainer.optimizers:
        for state in optimizer.state.values():
            state["exp_avg"].fill_(1e-40)
    before = [denormals(optimizer) for optimizer in trainer.optimizers]
    assert min(before) > 0
    module.training_step(nothing, 1)
    assert [denormals(optimizer) for optimizer in trainer.optimizers] == before
    module.training_step(nothing, 0)
    assert [denormals(optimizer) for optimizer in trainer.optimizers] == [0, 0, 0]
    module.teardown("fit")


def test_an_optimizer_may_remember_what_it_likes() -> None:
    weights = torch.nn.Parameter(torch.zeros(2))
    optimizer = Adam([weights])
    optimizer.state[weights] = {"moment": torch.tensor([1e-40, 1.0]), "steps": 3, "half": torch.full((1,), 1e-7).half()}
    optimizer.state["count"] = 5
    flush_denormals(optimizer)
    assert optimizer.state[weights]["moment"].tolist() == [0, 1]
    assert optimizer.state[weights]["half"] > 0
