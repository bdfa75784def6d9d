"""What the side-by-side measurements share: contestants in processes of their own, measured in turn.

A contestant is a function that prepares its work and returns another one, which does a given amount of it, or returns a
`Training`. Each lives in its own process, so that no library's threads or settings meet another's; only one works at
a time. A `Bare` contestant is a training's own process that goes on without Lightning's loops, so that nothing else is
different.
"""

import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

Work = Callable[[int], None]
Contestant = Callable[..., Any]
"""Arguments to a `Work` or a `Training`."""


class Bare(NamedTuple):
    """A contestant that is another one, a `Training`, in a bare loop."""

    training: str
    """Its name."""


class Turn(NamedTuple):
    """What a contestant is asked for."""

    amount: int
    bare: bool = False
    """Whether a training's rounds and steps follow one another without Lightning's loops, callbacks and loggers."""


def _turns(pipe: Connection, seconds: float, begun: float) -> Iterator[Turn]:
    """The turns, one after the other; whoever iterates does them."""
    amount = 1
    while True:  # warms up, and finds an amount of work that takes about `seconds`
        started = time.perf_counter()
        yield Turn(amount)
        taken = time.perf_counter() - started
        if taken > seconds / 4:
            break
        amount *= 2
    amount = max(1, round(amount * seconds / taken))
    yield Turn(amount)
    pipe.send(time.perf_counter() - begun)
    while (bare := pipe.recv()) is not None:
        yield Turn(max(1, amount // 8), bare)  # not counted: the turn before was another process's, caches and all
        started = time.perf_counter()
        yield Turn(amount, bare)
        pipe.send(amount / (time.perf_counter() - started))


def _serve(prepare: Contestant, arguments: Sequence[Any], seconds: float, pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    contestant = prepare(*arguments)
    turns = _turns(pipe, seconds, begun)
    if isinstance(contestant, Training):
        contestant.take(turns)
    else:
        for turn in turns:
            contestant(turn.amount)


class Contest:
    """Contestants that take turns, for several rounds.

    Args:
        contestants: by name, each with its arguments, or `Bare` of one that comes before.
        seconds: of one turn, about.
    """

    def __init__(
        self, contestants: Mapping[str, tuple[Contestant, Sequence[Any]] | Bare], seconds: float = 3.0
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.preparation: dict[str, float] = {}
        """Seconds until a contestant was warm, compilation included."""
        self._pipes: dict[str, Connection] = {}
        self._bare: set[str] = set()
        self._processes = []
        for name, contestant in contestants.items():
            if isinstance(contestant, Bare):
                self._pipes[name] = self._pipes[contestant.training]
                self._bare.add(name)
                continue
            prepare, arguments = contestant
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(prepare, arguments, seconds, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes[name] = ours
            self.preparation[name] = round(ours.recv(), 1)

    def rates(self, rounds: int) -> dict[str, list[float]]:
        """Each contestant's work a second, one number a round; every other round goes through them backwards."""
        rates: dict[str, list[float]] = {name: [] for name in self._pipes}
        forwards = list(self._pipes.items())
        for index in range(rounds):
            for name, pipe in forwards if index % 2 == 0 else reversed(forwards):
                pipe.send(name in self._bare)
                rates[name].append(pipe.recv())
        return rates

    def close(self) -> None:
        """Ends the processes."""
        for pipe in set(self._pipes.values()):
            pipe.send(None)
        for process in self._processes:
            process.join()


class Training(Callback):
    """A module under ``Trainer.fit``, which stands still between two turns.

    It is the callback that counts the items. Training runs in the process's main thread, as a user's does: in another
    one PyTorch's own threads make it half as fast.

    Args:
        module: its epoch has to be longer than all the work.
        log_every_n_steps: the trainer's.
        items: of the stream in an amount of one.
        warm_up: items before the first turn.
        accelerator: the trainer's.
    """

    def __init__(
        self, module: Any, log_every_n_steps: int, items: int = 1, warm_up: int = 0, accelerator: str = "cpu"
    ) -> None:
        self.module = module
        self.log_every_n_steps = log_every_n_steps
        self.items = items
        self.warm_up = warm_up
        self.accelerator = accelerator

    def take(self, turns: Iterator[Turn]) -> None:
        """Trains until there are no more turns."""
        self.turns = turns
        trainer = Trainer(
            accelerator=self.accelerator,
            devices=1,
            max_epochs=1,
            limit_val_batches=0,
            log_every_n_steps=self.log_every_n_steps,
            callbacks=[self],
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=tempfile.mkdtemp(),
        )
        trainer.fit(self.module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to count: one item is behind it before the first turn at the least."""
        self.left = self.warm_up + 1

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Stands still where a turn is over, until the next one."""
        self.left -= 1
        while self.left == 0 and not trainer.should_stop:
            turn = next(self.turns, None)
            if turn is None:
                trainer.should_stop = True
            elif turn.bare:
                for index in range(turn.amount * self.items):
                    pl_module.training_step(pl_module.next_item(), index)
            else:
                self.left = turn.amount * self.items


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
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
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
