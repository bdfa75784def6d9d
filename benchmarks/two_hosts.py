"""Two torchrun agents train together, one of them is killed, and both go on from the last checkpoint.

    python benchmarks/two_hosts.py results/two-hosts.json

The agents stand for two machines that share a disk; they meet on loopback. Told are the seconds from the kill until the
other agent gave up and until every worker was gone, what the survivor said, and whether the restarted run ended, to the
bit, like one that went on from the same checkpoint without being disturbed.
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


def agents(folder: Path, algorithm: str, epochs: int, checkpoint: str | None = None) -> list[subprocess.Popen[str]]:
    """Two torchrun agents of one rank each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for host in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=run", "--max-restarts=0"]
        command += [f"--rdzv-conf=is_host={1 - host}", __file__, "-", "--work", algorithm, "--epochs", str(epochs)]
        command += ["--checkpoint", checkpoint] if checkpoint else []
        log = (folder / f"agent-{host}.log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        started.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True, env=environment))
    return started


def finish(started: list[subprocess.Popen[str]], folder: Path) -> list[dict[str, Any]]:
    """Waits for both agents; what each rank ended with."""
    if any(agent.wait(timeout=600) for agent in started):
        raise RuntimeError((folder / "agent-0.log").read_text()[-3000:])
    return [json.loads((folder / f"end-{rank}.json").read_text()) for rank in range(2)]


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def disturb(algorithm: str, epochs: int) -> dict[str, Any]:
    """The whole story of one algorithm."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, second = agents(folder, algorithm, epochs)
        while not (folder / CHECKPOINT).exists():
            time.sleep(0.05)
            if first.poll() is not None:
                raise RuntimeError((folder / "agent-0.log").read_text()[-3000:])
        time.sleep(2)
        workers = [int((folder / f"worker-{rank}.pid").read_text()) for rank in range(2)]
        second.send_signal(signal.SIGKILL)
        killed = time.perf_counter()
        code = first.wait(timeout=300)
        gave_up = time.perf_counter() - killed
        while any(alive(pid) for pid in workers):
            time.sleep(0.05)
        gone = time.perf_counter() - killed
        errors = [line for line in (folder / "agent-0.log").read_text().splitlines() if "Error" in line]
        shutil.copytree(folder / "checkpoints", folder / "kept")
        ends = [finish(agents(folder, algorithm, epochs, each), folder) for each in (str(CHECKPOINT), "kept/last.ckpt")]
    return {
        "algorithm": algorithm,
        "survivors_exit_code": code,
        "seconds_until_it_gave_up": round(gave_up, 1),
        "seconds_until_all_workers_were_gone": round(gone, 1),
        "it_said": errors[0].strip() if errors else "",
        "ranks_agree": ends[0][0]["weights"] == ends[0][1]["weights"],
        "resumed_twice_alike": ends[0] == ends[1],
        "end": ends[0][0],
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
    results = [disturb(algorithm, arguments.epochs) for algorithm in arguments.algorithms]
    Path(arguments.output).write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
