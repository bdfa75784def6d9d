"""What the side-by-side measurements share: contestants in processes of their own, measured in turn.

A contestant is a function that prepares its work and returns another one, which does a given amount of it. Each lives
in its own process, so that no library's threads or settings meet another's; only one works at a time.
"""

import json
import multiprocessing
import os
import platform
import queue
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

Work = Callable[[int], None]
Contestant = Callable[..., Work]


def _serve(prepare: Contestant, arguments: Sequence[Any], seconds: float, pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    work = prepare(*arguments)
    amount = 1
    while True:  # warms up, and finds an amount of work that takes about `seconds`
        started = time.perf_counter()
        work(amount)
        taken = time.perf_counter() - started
        if taken > seconds / 4:
            break
        amount *= 2
    amount = max(1, round(amount * seconds / taken))
    work(amount)
    pipe.send(time.perf_counter() - begun)
    while pipe.recv():
        started = time.perf_counter()
        work(amount)
        pipe.send(amount / (time.perf_counter() - started))


class Contest:
    """Contestants that take turns, for several rounds.

    Args:
        contestants: by name, each with its arguments.
        seconds: of one turn, about.
    """

    def __init__(self, contestants: Mapping[str, tuple[Contestant, Sequence[Any]]], seconds: float = 3.0) -> None:
        context = multiprocessing.get_context("spawn")
        self.preparation: dict[str, float] = {}
        """Seconds until a contestant was warm, compilation included."""
        self._pipes: dict[str, Connection] = {}
        self._processes = []
        for name, (prepare, arguments) in contestants.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(prepare, arguments, seconds, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes[name] = ours
            self.preparation[name] = round(ours.recv(), 1)

    def rates(self, rounds: int) -> dict[str, list[float]]:
        """Each contestant's work a second, one number a round."""
        rates: dict[str, list[float]] = {name: [] for name in self._pipes}
        for _ in range(rounds):
            for name, pipe in self._pipes.items():
                pipe.send(True)
                rates[name].append(pipe.recv())
        return rates

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes.values():
            pipe.send(False)
        for process in self._processes:
            process.join()


class _Turns(Callback):
    """Lets a training wait until some of its items are wanted, and tells when they are done."""

    def __init__(self, bare: bool) -> None:
        self.bare = bare
        self.wanted: queue.Queue[int] = queue.Queue()
        self.done: queue.Queue[None] = queue.Queue()
        self.left = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.wait(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.wait(pl_module)

    def wait(self, module: Any) -> None:
        self.done.put(None)
        self.left = self.wanted.get()
        while self.bare:
            for index in range(self.left):
                module.training_step(module.experience.round(), index)
            self.done.put(None)
            self.left = self.wanted.get()


def training(module: LightningModule, log_every_n_steps: int, bare: bool = False) -> Work:
    """A module under ``Trainer.fit``, in a thread that waits between two pieces of work; an item is an amount of one.

    Args:
        module: its epoch has to be longer than all the work.
        log_every_n_steps: the trainer's.
        bare: whether rounds and training steps follow one another in a plain loop instead, without Lightning's loops,
            callbacks and loggers.
    """
    turns = _Turns(bare)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=log_every_n_steps,
        callbacks=[turns],
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tempfile.mkdtemp(),
    )
    threading.Thread(target=trainer.fit, args=(module,), daemon=True).start()
    turns.done.get()

    def work(items: int) -> None:
        turns.wanted.put(items)
        turns.done.get()

    return work


def ratio(rates: Mapping[str, Sequence[float]], name: str, reference: str) -> float:
    """The median over rounds of one contestant's rate divided by another's in the same round."""
    return round(statistics.median(a / b for a, b in zip(rates[name], rates[reference], strict=True)), 3)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    packages = ("torch", "lightning", "gymnasium", "envpool", "stable-baselines3", "sb3-contrib", "sbx-rl", "jax")
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return {
        "processor": f"{model}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def save(output: Path, result: Mapping[str, Any], table: str) -> None:
    """Writes `NAME.json` and `NAME.md`, and prints the table."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    output.with_suffix(".md").write_text(table + "\n")
    print(table)


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
