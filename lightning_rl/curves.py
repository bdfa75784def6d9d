"""Learning curves: how a run's folder keeps them, and how they are drawn."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

FILE = "curve.csv"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind too
STYLE: Any = {
    "font.size": 11,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.frameon": False,
}

Axis = Literal["steps", "minutes"]
Numbers = NDArray[np.float64]


class Point(NamedTuple):
    """An epoch of a learning curve; NaN where nothing was measured."""

    step: int
    """Environment steps, over all ranks."""
    minutes: float
    """Of training, evaluation included; not counted while the run was interrupted."""
    train_return: float
    """Mean of the training episodes that ended in this epoch (on the first rank)."""
    val_return: float
    """Mean of the greedy episodes of the evaluation."""
    val_return_std: float
    """Their standard deviation."""
    val_length: float
    """Their mean length, in steps."""


COLUMNS = {name: name.replace("_", "/", 1) if "_" in name else name for name in Point._fields}


class Curve(NamedTuple):
    """A run's learning curve."""

    points: Sequence[Point]
    settings: dict[str, Any]
    """The hyperparameters: runs that share them differ by their seeds."""

    @property
    def label(self) -> str:
        """Algorithm and environment."""
        algorithm = str(self.settings.get("_class_path", "")).rpartition(".")[2].removesuffix("Module")
        return f"{algorithm} on {self.settings.get('env', '?')}" if algorithm else "learning curve"

    def measured(self, name: str, x: Axis) -> tuple[Numbers, Numbers]:
        """Where a column was measured, and its numbers."""
        at = np.array([point.step if x == "steps" else point.minutes for point in self.points], dtype=np.float64)
        values = np.array([getattr(point, name) for point in self.points], dtype=np.float64)
        known = np.isfinite(values) & np.isfinite(at)
        return at[known], values[known]


def write_points(folder: Path, points: Sequence[Point]) -> None:
    """Writes the curve of a run's folder, whole at every moment."""
    temporary = folder / f"{FILE}.part"
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS[name] for name in Point._fields)
        for point in points:
            writer.writerow("" if value != value else f"{value:.10g}" for value in point)  # NaN is left out
    temporary.replace(folder / FILE)


def read_curve(run: Path) -> Curve:
    """Reads the curve that a run's folder keeps.

    Raises:
        ValueError: the folder has none.
    """
    path = run / FILE
    if not path.is_file():
        raise ValueError(f"{run} holds no {FILE}: give the folder of a run, such as lightning_logs/version_0.")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = []
    for row in rows:
        step, *measured = (float(row.get(column) or "nan") for column in COLUMNS.values())
        points.append(Point(int(step), *measured))
    return Curve(points, _settings(run))


def _settings(run: Path) -> dict[str, Any]:
    """The hyperparameters of a run's folder, from its logger's file or from the command line's."""
    if (run / "hparams.yaml").is_file():
        settings = yaml.safe_load((run / "hparams.yaml").read_text())
    elif (run / "config.yaml").is_file():
        model = yaml.safe_load((run / "config.yaml").read_text())["model"]
        settings = {"_class_path": model["class_path"], **model["init_args"]}
    else:
        settings = {}
    return settings or {}


def draw(curves: Sequence[Curve], x: Axis = "steps") -> Figure:
    """Draws runs side by side: those of one configuration as their mean and deviation, one run with its episodes'.

    Args:
        curves: at least one, each with an evaluation.
        x: what lies to the right: environment steps or minutes.
    """
    groups: list[list[Curve]] = []
    for curve in curves:
        same = next((group for group in groups if group[0].settings == curve.settings), None)
        if same is None:
            groups.append([curve])
        else:
            same.append(curve)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        for index, group in enumerate(groups):
            colour = COLOURS[index % len(COLOURS)]
            name = "evaluation" if len(groups) == 1 else _name(group, groups)
            if len(group) == 1:
                _draw_run(axes, group[0], x, colour, name, alone=len(groups) == 1)
            else:
                _draw_group(axes, group, x, colour, f"{name}, {len(group)} runs")
        labels = {group[0].label for group in groups}
        axes.set_title(labels.pop() if len(labels) == 1 else "", loc="left", fontsize=12)
        axes.set(xlabel="environment steps" if x == "steps" else "minutes", ylabel="return")
        axes.margins(x=0.01)
        if x == "steps":
            axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.legend(loc="lower right")
    return figure


def _draw_run(axes: Axes, curve: Curve, x: Axis, colour: str, name: str, alone: bool) -> None:
    if alone:
        axes.plot(*curve.measured("train_return", x), color="0.6", linewidth=1, label="training episodes")
    at, mean = curve.measured("val_return", x)
    spread = curve.measured("val_return_std", x)[1]
    axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.plot(at, mean, color=colour, linewidth=1.8, label=f"{name} ± deviation of its episodes" if alone else name)


def _draw_group(axes: Axes, group: Sequence[Curve], x: Axis, colour: str, name: str) -> None:
    lines = [curve.measured("val_return", x) for curve in group]
    first, last = max(at[0] for at, _ in lines), min(at[-1] for at, _ in lines)
    at = np.unique(np.concatenate([at for at, _ in lines]))
    at = at[(at >= first) & (at <= last)]
    returns = np.stack([np.interp(at, *line) for line in lines])
    mean, spread = returns.mean(0), returns.std(0)
    axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.plot(at, mean, color=colour, linewidth=1.8, label=f"{name}: mean ± deviation")


def _name(group: Sequence[Curve], groups: Sequence[Sequence[Curve]]) -> str:
    """What tells one configuration from the others: its label, or the hyperparameters in which they differ."""
    labels = [each[0].label for each in groups]
    if len(set(labels)) == len(labels):
        return group[0].label
    settings = [each[0].settings for each in groups]
    names = sorted(set().union(*settings) - {"_class_path", "env"})
    differing = [name for name in names if any(each.get(name) != settings[0].get(name) for each in settings)]
    return ", ".join(f"{name} {group[0].settings.get(name)}" for name in differing)
