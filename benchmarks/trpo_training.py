"""TRPO's whole training, environment steps a second, beside sb3-contrib's on the same work.

    python benchmarks/trpo_training.py results/trpo-training

BipedalWalker-v3 with the same nets, rollouts of 8,192 steps, conjugate gradient steps and value epochs; logging
included, evaluation and warm-up left out. sb3-contrib normalises by ``VecNormalize``, with Gymnasium's environments in
its own process, as it makes them. More rows tell what collecting alone does, EnvPool stepped bare, and how fast
`configs/trpo/bipedal_walker.yaml` trains, which is other work than sb3-contrib's.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from contest import Contest, Training, Work, machine, markdown, ratio, save

WALKER = Path(__file__).parents[1] / "configs" / "trpo" / "bipedal_walker.yaml"
ROLLOUT, VALUE_EPOCHS, BATCH, CG_ITERATIONS, WIDTHS = 8_192, 10, 512, 10, (64, 64)


def make(backend: str, num_envs: int) -> Any:
    """The module of all of our rows."""
    from lightning_rl import TRPOModule

    return TRPOModule(
        num_envs=num_envs,
        backend=backend,
        rollout_steps=ROLLOUT // num_envs,
        hidden_sizes=WIDTHS,
        value_epochs=VALUE_EPOCHS,
        value_batch_size=BATCH,
        cg_iters=CG_ITERATIONS,
        steps_per_epoch=1_000_000 * ROLLOUT,
    )


def ours(backend: str, num_envs: int) -> Training:
    """`TRPOModule` under ``Trainer.fit``."""
    return Training(make(backend, num_envs), log_every_n_steps=1)


def walker() -> Training:
    """`TRPOModule` as `configs/trpo/bipedal_walker.yaml` has it, without its schedules."""
    from lightning_rl import TRPOModule

    settings = yaml.safe_load(WALKER.read_text())["model"]["init_args"]
    for name in ("optimizer", "lr_scheduler", "policy_lr_scheduler"):  # the default one is the same Adam
        settings.pop(name, None)
    module = TRPOModule(**settings | {"steps_per_epoch": 1_000_000 * ROLLOUT})
    rollouts = ROLLOUT // (module.num_envs * module.rollout_steps)
    return Training(module, log_every_n_steps=10, items=rollouts)


def collecting() -> Work:
    """Rollouts of `TRPOModule` with EnvPool, valued and with their advantages, from a policy that stays."""
    from lightning_rl.freed_memory import keep_freed_memory

    keep_freed_memory()
    module = make("envpool", 64)
    module.experience = module.make_experience(run_seed=0)

    def work(rollouts: int) -> None:
        for _ in range(rollouts):
            module.next_item()

    return work


def bare_envpool() -> Work:
    """EnvPool alone, stepped with actions that wait in memory."""
    import envpool

    pool = envpool.make_gymnasium("BipedalWalker-v3", num_envs=64, seed=0)
    pool.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (ROLLOUT // 64, 64, 4)).astype(np.float32)

    def work(rollouts: int) -> None:
        for _ in range(rollouts):
            for action in actions:
                *_, terminated, truncated, _ = pool.step(action)
                ended = np.flatnonzero(terminated | truncated)
                if len(ended):
                    pool.reset(ended.astype(np.int32))

    return work


def sb3_contrib(num_envs: int) -> Work:
    """sb3-contrib's ``learn``, which goes on where it stopped."""
    from sb3_contrib import TRPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    model = TRPO(
        "MlpPolicy",
        VecNormalize(make_vec_env("BipedalWalker-v3", num_envs)),
        n_steps=ROLLOUT // num_envs,
        batch_size=BATCH,
        n_critic_updates=VALUE_EPOCHS,
        cg_max_steps=CG_ITERATIONS,
        target_kl=0.01,
        policy_kwargs={"net_arch": {"pi": list(WIDTHS), "vf": list(WIDTHS)}},
        device="cpu",
    )

    def work(rollouts: int) -> None:
        model.learn(rollouts * ROLLOUT, reset_num_timesteps=False)

    return work


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the files to write, without their extension")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one turn")
    arguments = parser.parse_args()
    contest = Contest(
        {
            "EnvPool, 64 environments": (ours, ("envpool", 64)),
            "sync, 64 environments": (ours, ("sync", 64)),
            "sync, 1 environment": (ours, ("sync", 1)),
            "sb3-contrib, 64 environments": (sb3_contrib, (64,)),
            "sb3-contrib, 1 environment": (sb3_contrib, (1,)),
            "the walker's configuration, EnvPool": (walker, ()),
            "collecting alone, EnvPool": (collecting, ()),
            "EnvPool stepped bare": (bare_envpool, ()),
        },
        arguments.seconds,
    )
    rates = contest.rates(arguments.rounds)
    contest.close()
    peers = [name for name in rates if name.startswith("sb3-contrib")]
    result = {
        "steps_per_second": {name: round(statistics.median(r) * ROLLOUT) for name, r in rates.items()},
        "ratio_to": {peer: {name: ratio(rates, name, peer) for name in rates} for peer in peers},
        "collecting_to_bare": ratio(rates, "collecting alone, EnvPool", "EnvPool stepped bare"),
        "preparation_s": contest.preparation,
        "rounds": {name: [round(rate * ROLLOUT) for rate in r] for name, r in rates.items()},
        "machine": machine(),
    }
    rows = [
        [name, result["steps_per_second"][name], *(result["ratio_to"][peer][name] for peer in peers)] for name in rates
    ]
    save(arguments.output, result, markdown(["", "steps/s", *(f"to {peer}" for peer in peers)], rows))


if __name__ == "__main__":
    main()
