"""SAC's gradient updates a second, beside Stable-Baselines3 and SBX (JAX) on the same work.

    python benchmarks/sac_updates.py results/sac-updates
    python benchmarks/sac_updates.py results/sac-updates-gpu --accelerator gpu

An update is what each library does once a gradient step: draws a minibatch from its replay buffer, and steps critics,
actor, temperature and target; 64 follow one another at a time. BipedalWalker's sizes, twin critics, Adam. The libraries
take turns; medians of ratios are taken round by round. A floor is what the update's matrix products alone would allow
at the rate of a large product, measured in the same rounds: of PyTorch's own, and on the CPU of oneDNN's, which
`SACModule` uses where it is exact. On a GPU an update of these sizes should wait for its kernels' launches, not for its
products: CUDA graphs spare most of the launches, and the ratio to the floor tells how far from arithmetic it still is.
SBX, whose JAX comes for the CPU alone, is left out there.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Contest, Work, machine, markdown, ratio, save

OBSERVATION, ACTION, TRANSITIONS = 24, 4, 20_000
FLOORS = ("floor", "floor, oneDNN")
CHUNK = 64  # updates at a time, our item; SBX compiles its loop anew for another number


def random_transitions() -> tuple[np.ndarray, ...]:
    """Observation, action, reward and next observation."""
    random = np.random.default_rng(0)
    observation = random.standard_normal((TRANSITIONS + 1, OBSERVATION), dtype=np.float32)
    action = random.uniform(-1, 1, (TRANSITIONS, ACTION)).astype(np.float32)
    return observation[:-1], action, random.standard_normal(TRANSITIONS, dtype=np.float32), observation[1:]


def ours(batch: int, width: int, compile: bool, bfloat16: bool, device: str) -> Work:
    """`SACModule`'s update in a bare loop, its replay buffer on the device, autocast as Lightning has it: uncached."""
    from lightning_rl import SACModule
    from lightning_rl.adam import adam_state, step_scales
    from lightning_rl.compilation import Settled, between_replays, compiled
    from lightning_rl.experience import Noise, ReplayBuffer, Transition
    from lightning_rl.freed_memory import keep_freed_memory
    from lightning_rl.products import fast_products

    keep_freed_memory()
    module = SACModule(batch_size=batch, hidden_sizes=(width, width)).to(device)
    buffer = ReplayBuffer(TRANSITIONS, 1, OBSERVATION, ACTION, device=device)
    never = np.zeros(1, dtype=np.bool_)
    for observation, action, reward, following in zip(*random_transitions(), strict=True):
        buffer.add(observation[None], torch.from_numpy(action[None]), reward[None], following[None], never, never)
    optimizers = module.configure_optimizers()
    random = torch.Generator().manual_seed(0)
    step_by_step = partial(module.update, partial(module.descend, optimizers))
    if compile and device == "cpu":
        update_at_once = compiled(module.update_at_once, "cpu")
        states = [adam_state(optimizer) for optimizer in optimizers]
        steps = count(1)

        def updates_of_an_item() -> Callable[[Transition, Noise], Any]:
            settled = Settled(partial(update_at_once, states))

            def update(transitions: Transition, noise: Noise) -> None:
                taken, *_ = settled(step_scales(optimizers, [next(steps)] * 3), *transitions, *noise)
                assert all(taken.tolist())

            return update
    else:
        if compile:
            for name in ("critic_gradients", "actor_gradients"):
                setattr(module, name, compiled(getattr(module, name), device))

        def updates_of_an_item() -> Callable[[Transition, Noise], Any]:
            return between_replays(step_by_step) if compile else step_by_step

    def work(chunks: int) -> None:
        with fast_products(), torch.autocast(device, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
            for _ in range(chunks):
                update = updates_of_an_item()
                sample = buffer.sample(CHUNK, batch, random)
                noise = torch.randn(2, CHUNK, batch, ACTION, generator=random).to(device)
                for index in range(CHUNK):
                    update(Transition(*(field[index] for field in sample)), Noise(*noise[:, index]))
        if device == "cuda":
            torch.cuda.synchronize()

    return work


def stable_baselines(library: str, batch: int, width: int, device: str) -> Work:
    """Stable-Baselines3's or SBX's ``train``, on a buffer that is filled beforehand."""
    if library == "sb3":
        from stable_baselines3 import SAC
    else:
        from sbx import SAC

    settings: dict[str, Any] = {"device": device} if library == "sb3" else {}
    model = SAC(
        "MlpPolicy",
        "BipedalWalker-v3",
        batch_size=batch,
        buffer_size=TRANSITIONS,
        policy_kwargs={"net_arch": [width, width]},
        **settings,
    )
    model._setup_learn(0)
    assert model.replay_buffer is not None
    never = np.zeros(1)
    for observation, action, reward, following in zip(*random_transitions(), strict=True):
        model.replay_buffer.add(observation[None], following[None], action[None], reward[None], never, [{}])

    def work(chunks: int) -> None:
        for _ in range(chunks):
            model.train(gradient_steps=CHUNK, batch_size=batch)
        if device == "cuda":
            torch.cuda.synchronize()
        if library == "sbx":
            import jax

            jax.block_until_ready(model.policy.actor_state.params)

    return work


def matmul(fast: bool, device: str) -> Work:
    """Square float32 products, by `fast_products` or as PyTorch comes; an amount of one is a GFLOP."""
    from lightning_rl.products import fast_products

    size = 1024 if device == "cpu" else 4096
    left, right = torch.randn(2, size, size, device=device)
    repeats = 1e9 / (2 * size**3)

    def work(gflop: int) -> None:
        with fast_products() if fast else nullcontext():
            for _ in range(max(1, round(gflop * repeats))):
                left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    return work


def gflop(batch: int, width: int) -> float:
    """Of the matrix products of one update: forward, and backward to weights and inputs."""
    actor = OBSERVATION * width + width * width + width * 2 * ACTION
    critic = (OBSERVATION + ACTION) * width + width * width + width
    actor_inner, critic_inner = actor - OBSERVATION * width, critic - (OBSERVATION + ACTION) * width
    next_value = actor + 2 * critic
    critics = 2 * (2 * critic + critic_inner)
    actors = 2 * actor + actor_inner + 2 * 2 * critic
    return 2 * batch * (next_value + critics + actors) / 1e9


def contestants(batch: int, width: int, device: str) -> dict[str, Any]:
    """Everyone, with the sizes of this table's row."""
    everywhere = {
        "matmul": (matmul, (False, device)),
        "eager": (ours, (batch, width, False, False, device)),
        "compiled": (ours, (batch, width, True, False, device)),
        "compiled, bf16": (ours, (batch, width, True, True, device)),
        "SB3": (stable_baselines, ("sb3", batch, width, device)),
    }
    on_cpu = {
        "matmul, oneDNN": (matmul, (True, device)),
        "SBX": (stable_baselines, ("sbx", batch, width, device)),
    }
    return everywhere | (on_cpu if device == "cpu" else {})


def row(batch: int, width: int, device: str, rounds: int, seconds: float) -> dict[str, Any]:
    """One size, measured."""
    contest = Contest(contestants(batch, width, device), seconds)
    rates = contest.rates(rounds)
    contest.close()
    rates = {name: [CHUNK * rate for rate in values] for name, values in rates.items()}
    for floor in FLOORS:
        products = rates.get(floor.replace("floor", "matmul"))
        if products is not None:
            rates[floor] = [rate / CHUNK / gflop(batch, width) for rate in products]
    return {
        "batch": batch,
        "width": width,
        "updates_per_second": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "compiled_to": {
            name: ratio(rates, "compiled", name) for name in ("SB3", "SBX", "eager", *FLOORS) if name in rates
        },
        "bf16_to": {name: ratio(rates, "compiled, bf16", name) for name in ("SB3", "SBX") if name in rates},
        "preparation_s": contest.preparation,
        "rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the files to write, without their extension")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--sweep", action="store_true", help="batch 64…4096 and width 64…1024 too")
    arguments = parser.parse_args()
    sizes = [(256, 256)]
    if arguments.sweep:
        sizes += [(batch, 256) for batch in (64, 1024, 4096)] + [(256, width) for width in (64, 512, 1024)]
    device = "cuda" if arguments.accelerator == "gpu" else "cpu"
    rows = [row(*size, device, arguments.rounds, arguments.seconds) for size in sizes]
    measured = rows[0]["updates_per_second"]
    names = [n for n in (*FLOORS, "compiled", "compiled, bf16", "eager", "SBX", "SB3") if n in measured]
    ratios = [n for n in ("SBX", "SB3", *FLOORS) if n in measured]
    columns = [f"{'compiled ' if n in ('SBX', 'SB3') else ''}/ {n}" for n in ratios]
    table = markdown(
        ["batch", "width", *(f"{name}, updates/s" for name in names), *columns],
        [
            [
                r["batch"],
                r["width"],
                *(r["updates_per_second"][name] for name in names),
                *(r["compiled_to"][name] for name in ratios),
            ]
            for r in rows
        ],
    )
    save(arguments.output, {"rows": rows, "machine": machine()}, table)


if __name__ == "__main__":
    main()
