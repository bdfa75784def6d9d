"""Every code block of README and docs is run, as it stands but for less training."""

import os
import re
import shlex
import subprocess
import sys
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lightning.pytorch import Trainer

from lightning_rl import SACModule

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1, "limit_test_batches": 1}
ELSEWHERE = ("make", "pip", "srun", "torchrun")  # what CI runs anyway, or another machine
OPTIONAL = ("wandb", "mlflow")


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    fences = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [Block(*fence) for fence in fences]


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def short_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    initialise = Trainer.__init__

    @wraps(initialise)
    def shortened(self: Trainer, **settings: Any) -> None:
        initialise(self, **{**settings, **SHORT, "accelerator": "cpu", "enable_progress_bar": False})

    monkeypatch.setattr(Trainer, "__init__", shortened)
    build = SACModule.__init__

    @wraps(build)
    def eager(self: SACModule, **settings: Any) -> None:
        build(self, **{"learning_starts": 32, **settings})  # so that three items carry updates

    monkeypatch.setattr(SACModule, "__init__", eager)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("short_trainer")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "a_page"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    short = [f"--trainer.{name}={value}" for name, value in SHORT.items()]
    for index, block in enumerate(blocks(page)):
        if block.language != "bash":
            continue
        folder = Path(str(index))  # of the block's own: its first run is version_0
        folder.mkdir()
        for name in ("configs", "results"):
            (folder / name).symlink_to(ROOT / name)
        for words in commands(block.text):
            if words[0] in ELSEWHERE:
                continue
            assert words[0] == "lightning-rl", f"{page.name}: who runs {words}?"
            trains = words[1] in ("fit", "validate", "test", "predict")
            more = [*short, "--trainer.accelerator=cpu"] if trains else []
            if words[1] == "fit" and "trpo" not in " ".join(words):
                more.append("--model.learning_starts=32")
            command = [sys.executable, "-m", "lightning_rl", *words[1:], *more]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
            assert done.returncode == 0, f"{words}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        pytest.param(page, block.text, id=f"{page.name}-{index}")
        for page in PAGES
        for index, block in enumerate(blocks(page))
        if block.language == "yaml"
    ],
)
def test_configurations_are_accepted(page: Path, text: str) -> None:
    for package in OPTIONAL:
        if package in text.lower():
            pytest.importorskip(package)
    Path("block.yaml").write_text(text)
    command = [sys.executable, "-m", "lightning_rl", "fit", "--config", "block.yaml"]
    short = [*(f"--trainer.{name}={value}" for name, value in SHORT.items()), "--trainer.accelerator=cpu"]
    done = subprocess.run([*command, *short], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_no_block_is_of_a_language_that_nothing_runs() -> None:
    known = {"python", "bash", "yaml", "text"}
    assert {block.language for page in PAGES for block in blocks(page)} <= known
