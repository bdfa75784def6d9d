"""The commands that need no Trainer."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gymnasium.spaces import Box

from lightning_rl.curves import draw, read_curve
from lightning_rl.environments import EnvironmentSpec, check_environment
from lightning_rl.export import export_policy, load_module, require_format


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose command's errors are told as those of its arguments are."""

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Ends the command with a message, instead of a traceback, where an argument cannot be used."""
        try:
            yield
        except (ValueError, TypeError, ImportError, OSError) as error:
            self.error(str(error))


def export(args: list[str]) -> None:
    """``lightning-rl export``."""
    parser = ArgumentParser(prog="lightning-rl export", description="Writes a trained policy to a file of its own.")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="a checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="NAME.onnx, or NAME.pt2 for torch.export.load")
    parser.add_argument("--env", help="its environment, MODULE.FUNCTION, where the checkpoint could not store it")
    given = parser.parse_args(args)
    with parser.errors():
        require_format(given.output)
        export_policy(load_module(given.ckpt_path, **({"env": given.env} if given.env else {})), given.output)
    print(f"The policy is in {given.output}")


def plot(args: list[str]) -> None:
    """``lightning-rl plot``."""
    parser = ArgumentParser(prog="lightning-rl plot", description="Draws the learning curves of runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, with curve.csv")
    parser.add_argument("--x", choices=["steps", "minutes"], default="steps", help="what lies to the right")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help="picture (.png, .svg or .pdf)")
    given = parser.parse_args(args)
    with parser.errors():
        draw([read_curve(run) for run in given.runs], given.x).savefig(given.output)
    print(f"The picture is in {given.output}")


def check(args: list[str]) -> None:
    """``lightning-rl check``."""
    parser = ArgumentParser(
        prog="lightning-rl check", description="Tells what keeps an environment from being learned."
    )
    parser.add_argument("env", help="an id registered with Gymnasium, or the import path of a callable that makes one")
    parser.add_argument("--env_kwargs", type=json.loads, default={}, help="such as '{\"gravity\": 9.0}'")
    parser.add_argument("--max_episode_steps", type=int, help="truncates episodes after so many steps")
    given = parser.parse_args(args)
    with parser.errors():
        problems = check_environment(given.env, given.env_kwargs, given.max_episode_steps)
        with closing(EnvironmentSpec(given.env, given.env_kwargs, given.max_episode_steps).make()) as environment:
            actions = environment.action_space
    algorithms = "SAC and TRPO" if isinstance(actions, Box) and actions.is_bounded() else "TRPO"
    print("\n".join(problems) or f"{given.env} can be learned in by {algorithms}, and its episodes can be repeated.")
    if problems:
        sys.exit(1)


COMMANDS = {"check": check, "export": export, "plot": plot}
