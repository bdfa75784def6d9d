"""Two torchrun agents train together, one of them is killed, and both go on from the last checkpoint.

    python benchmarks/two_hosts.py results/two-hosts.json

The agents stand for two machines that share a disk; they meet on loopback. Without restarts the other agent gives the
run up: told are the seconds from the kill until then and until every worker was gone, and what it said. With
``--max-restarts`` it waits for another machine in the lost one's place, and the run goes on from ``last.ckpt``. Both
times: whether the run ended, to the bit, like one that went on from the same checkpoint without being disturbed.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

CHECKPOINT = Path("checkpoints/last.ckpt")


def work(algorithm: str, epochs: int, checkpoint: str | None) -> None:
    """One rank, as torchrun starts it."""
    from lightning.pytorch import Trainer, seed_everything
    from lightning.pytorch.strategies import DDPStrategy

    from lightning_rl import SACModule, TRPOModule

    torch.set_num_threads(1)
    seed_everything(0)
    common: dict[str, Any] = {"env": "Pendulum-v1", "num_envs": 4, "hidden_sizes": (32, 32), "eval_episodes": 2}
    module: SACModule | TRPOModule
    if algorithm == "SAC":
        settings = {"buffer_size": 20_000, "batch_size": 32, "train_freq": 16, "learning_starts": 400}
        module = SACModule(**common, **settings, gradient_steps=8, steps_per_epoch=1600)
    else:
        module = TRPOModule(**common, rollout_steps=32, value_batch_size=64, steps_per_epoch=2560)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        num_nodes=2,
        strategy=DDPStrategy(timeout=timedelta(seconds=30)),
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    Path(f"worker-{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    trainer.fit(module, ckpt_path=checkpoint)
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    Path(f"end-{trainer.global_rank}.json").write_text(
        json.dumps({"weights": digest.hexdigest(), "steps": module.environment_steps, "updates": trainer.global_step})
    )


@dataclass
class Run:
    """A run of two agents of one rank each."""

    folder: Path
    algorithm: str
    epochs: int
    restarts: int = 0
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    def agent(self, host: int) -> subprocess.Popen[str]:
        """Starts an agent; the first host keeps the store in which they meet."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self._port}", "--rdzv-id=run"]
        command += [f"--max-restarts={self.restarts}", f"--rdzv-conf=is_host={int(host == 0)}"]
        command += [__file__, "-", "--work", self.algorithm, "--epochs", str(self.epochs)]
        command += ["--checkpoint", self.checkpoint] if self.checkpoint else []
        log = (self.folder / f"agent-{host}.log").open("a")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        # PyTorch's agents otherwise tell a late comer nothing of the workers' store, for which it waits for ever.
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, text=True, env=environment)

    def end(self, started: list[subprocess.Popen[str]] | None = None) -> list[dict[str, Any]]:
        """Waits for both agents, which it starts where there are none; what each rank ended with."""
        if any(agent.wait(timeout=600) for agent in started or [self.agent(0), self.agent(1)]):
            raise RuntimeError((self.folder / "agent-0.log").read_text()[-3000:])
        return [json.loads((self.folder / f"end-{rank}.json").read_text()) for rank in range(2)]

    def kill_one(self) -> tuple[subprocess.Popen[str], float, float]:
        """Starts both, and kills the second agent some time after the first checkpoint.

        Returns:
            The first agent; when the other one was killed; and the seconds until all workers were gone.
        """
        first, second = self.agent(0), self.agent(1)
        wait_until((self.folder / CHECKPOINT).exists, "no checkpoint was written")
        time.sleep(2)
        workers = [int((self.folder / f"worker-{rank}.pid").read_text()) for rank in range(2)]
        second.send_signal(signal.SIGKILL)
        killed = time.perf_counter()
        wait_until(lambda: not any(alive(pid) for pid in workers), "a worker stayed behind")
        return first, killed, time.perf_counter() - killed


def wait_until(happened: Callable[[], bool], otherwise: str, seconds: float = 120) -> None:
    """Waits for something to happen."""
    deadline = time.perf_counter() + seconds
    while not happened():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{otherwise} within {seconds:.0f} seconds.")
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def given_up(algorithm: str, epochs: int) -> dict[str, Any]:
    """Without restarts: the run fails, and both agents are started again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, killed, gone = Run(folder, algorithm, epochs).kill_one()
        code = first.wait(timeout=300)
        gave_up = time.perf_counter() - killed  # its workers go before the agent does
        errors = [line for line in (folder / "agent-0.log").read_text().splitlines() if "Error" in line]
        shutil.copytree(folder / "checkpoints", folder / "kept")
        ends = [Run(folder, algorithm, epochs, 0, each).end() for each in (str(CHECKPOINT), "kept/last.ckpt")]
    return {
        "survivors_exit_code": code,
        "seconds_until_it_gave_up": round(gave_up, 1),
        "seconds_until_all_workers_were_gone": round(gone, 1),
        "it_said": errors[0].strip() if errors else "",
        "ranks_agree": ends[0][0]["weights"] == ends[0][1]["weights"],
        "resumed_twice_alike": ends[0] == ends[1],
        "end": ends[0][0],
    }


def restarted(algorithm: str, epochs: int) -> dict[str, Any]:
    """With a restart: the surviving agent waits for another one in the lost one's place."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Run(folder, algorithm, epochs, restarts=1, checkpoint="last")
        first, killed, gone = run.kill_one()
        shutil.copytree(folder / "checkpoints", folder / "kept")
        replaced = run.end([first, run.agent(1)])
        seconds = time.perf_counter() - killed
        undisturbed = Run(folder, algorithm, epochs, 0, "kept/last.ckpt").end()
    return {
        "seconds_until_all_workers_were_gone": round(gone, 1),
        "seconds_from_the_kill_to_the_end": round(seconds, 1),
        "ranks_agree": replaced[0]["weights"] == replaced[1]["weights"],
        "like_the_undisturbed_run": replaced == undisturbed,
        "end": replaced[0],
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="JSON file of the result")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--algorithms", nargs="+", default=["SAC", "TRPO"])
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.epochs, arguments.checkpoint)
        return
    results = [
        {"algorithm": algorithm, "story": story.__name__, **story(algorithm, arguments.epochs)}
        for algorithm in arguments.algorithms
        for story in (given_up, restarted)
    ]
    Path(arguments.output).write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
