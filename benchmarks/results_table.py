"""Writes the tables of all results that `learn.py` and `peer_time_to_solve.py` made into the README of their folder.

python benchmarks/results_table.py results
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HEADER = """# Results

Each row is a run of `python benchmarks/learn.py configs/….yaml results/…`: the mean ± standard deviation of 100 test
episodes in Gymnasium, of seeds that were never trained or validated on, with the checkpoint that was best in the run's
own evaluations and with the last one; each run's `config.yaml` says with which settings. Minutes are from the
process's start to its end, evaluations included; on a machine of two cores, all but those of TRPO's walker beside
other work, which makes them upper bounds. Then comes what this project aims at, and what Stable-Baselines3's Zoo
publishes for one agent of the same algorithm. No GPU was at hand, for these runs or for the
tables of speed beside them.

| algorithm | environment | seed | steps | best checkpoint | last checkpoint | minutes | aim | the Zoo's |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

TIMES = """
## Time to a mean return of 300 on BipedalWalker-v3

Each row is a run of `learn.py … --stop_at 300` (SAC's 304), which ends with the first evaluation of that mean, or of
`peer_time_to_solve.py` (`sb3-…`), which ends with it or at its limit of minutes. Minutes are from the process's start
to its end, compilation and evaluations included; then come the last evaluation and 100 fresh test episodes with the
last checkpoint. The runs' commands and machines stand in [benchmarks/README.md](../benchmarks/README.md).

| runs | seed | steps | minutes | last evaluation | test |
| --- | --- | --- | --- | --- | --- |
"""


class Reference(NamedTuple):
    """What a result is held against."""

    aim: float | None
    published: str
    """With the steps it took, and the environment's version where it is another."""


REFERENCES = {
    ("SAC", "BipedalWalker-v3"): Reference(320, "297.7 ± 33.1 (500,000)"),
    ("TRPO", "BipedalWalker-v3"): Reference(315, "182.3 ± 145.6 (1 M)"),
    ("SAC", "LunarLanderContinuous-v3"): Reference(275, "260.4 ± 65.5 (500,000, v2)"),
    ("TRPO", "LunarLanderContinuous-v3"): Reference(265, "262.4 ± 21.4 (200,000, v2)"),
    ("SAC", "Pendulum-v1"): Reference(-155, "−157.0 ± 88.7 (20,000)"),
    ("TRPO", "Pendulum-v1"): Reference(-180, "−174.6 ± 127.6 (100,000)"),
    ("SAC", "MountainCarContinuous-v0"): Reference(94, "94.7 ± 1.1 (50,000)"),
    ("TRPO", "CartPole-v1"): Reference(500, "500 ± 0 (100,000)"),
    ("TRPO", "Acrobot-v1"): Reference(-83, "−83.1 ± 18.6 (100,000)"),
    ("TRPO", "BipedalWalkerHardcore-v3"): Reference(None, "none (of SAC 4.4 ± 103.9, 10 M)"),
    ("SAC", "Hopper-v5"): Reference(None, "2326 ± 1130 (1 M, v3)"),
    ("SAC", "HalfCheetah-v5"): Reference(None, "9535 ± 100 (1 M, v3)"),
    ("TRPO", "Hopper-v5"): Reference(None, "3618 ± 357 (1 M, v3)"),
    ("TRPO", "HalfCheetah-v5"): Reference(None, "1785 ± 69 (1 M, v3)"),
}


def rows(folder: Path) -> list[str]:
    """One configuration's rows."""
    table = []
    for run in json.loads((folder / "summary.json").read_text()):
        model = yaml.safe_load((folder / f"seed-{run['seed']}" / "config.yaml").read_text())["model"]
        algorithm = model["class_path"].rpartition(".")[2].removesuffix("Module")
        environment = model["init_args"]["env"]
        reference = REFERENCES[algorithm, environment]
        cells = [algorithm, environment, str(run["seed"]), f"{run['last']['step']:,.0f}"]
        cells += [told(run["best"]), told(run["last"]), str(run["minutes"]), held(run["best"]["return"], reference.aim)]
        table.append(f"| {' | '.join([*cells, reference.published])} |")
    return table


def times(folder: Path) -> list[str]:
    """The rows of one configuration's times to solve."""
    table = []
    for run in json.loads((folder / "summary.json").read_text()):
        with (folder / f"seed-{run['seed']}" / "curve.csv").open() as curve:
            *_, last = csv.DictReader(curve)
        evaluated = {"return": float(last["val/return"]), "return_std": float(last["val/return_std"])}
        table.append(time_row(folder.name, run, run["last"]["step"], evaluated, run["last"]))
    return table


def peer_time(result: Path) -> str:
    """The row of Stable-Baselines3's time to solve."""
    run = json.loads(result.read_text())
    last = run["curve"][-1]
    tested = dict(zip(("return", "return_std"), run["test"], strict=True))
    return time_row(result.stem, run, run["steps"], {"return": last["return"], "return_std": last["std"]}, tested)


def time_row(runs: str, run: dict[str, Any], steps: float, evaluated: dict[str, Any], tested: dict[str, Any]) -> str:
    """A row of the table of times."""
    cells = [runs, str(run["seed"]), f"{steps:,.0f}", str(run["minutes"]), told(evaluated), told(tested)]
    return f"| {' | '.join(cells)} |"


def told(tested: dict[str, Any]) -> str:
    """A test's mean and deviation."""
    return f"{number(tested['return'])} ± {number(tested['return_std'])}"


def held(mean: float, aim: float | None) -> str:
    """The aim, and whether it was reached."""
    return "none" if aim is None else f"{number(aim)}: {'reached' if mean >= aim else 'missed'}"


def number(value: float) -> str:
    """With one digit, and a minus sign."""
    return f"{value:.1f}".removesuffix(".0").replace("-", "−")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    folder = parser.parse_args().results
    tables = [each.parent for each in sorted(folder.glob("*/summary.json")) if "time_to" not in each.parent.name]
    text = HEADER + "".join(f"{row}\n" for each in tables for row in rows(each))
    solved = [row for each in sorted(folder.glob("*time_to_300*/summary.json")) for row in times(each.parent)]
    solved += map(peer_time, sorted(folder.glob("*time_to_300*.json")))
    text += TIMES + "".join(f"{row}\n" for row in solved)
    (folder / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
