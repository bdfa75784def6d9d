"""Learning curves: how a run's folder keeps them, and how they are drawn."""

import csv
import inspect
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

FILE = "curve.csv"
SETTINGS = "curve.yaml"
TOGETHER = "\N{NO-BREAK SPACE}"  # where a legend's line does not end
SHOWN = 4  # hyperparameters that tell one configuration from another, in a legend
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

PLAIN = (bool, int, float, str)

Axis = Literal["steps", "minutes"]
Numbers = NDArray[np.float64]


class Point(NamedTuple):
    """An epoch of a learning curve; NaN where nothing was measured."""

    step: int
    """Environment steps, over all ranks."""
    minutes: float
    """Of training, evaluation included; not counted while the run was interrupted."""
    train_return: float
    """Mean of the first rank's training episodes that were reported in this epoch, at the steps that are logged."""
    val_return: float
    """Mean of the greedy episodes of the evaluation."""
    val_return_std: float
    """Their standard deviation."""
    val_length: float
    """Their mean length, in steps."""


COLUMNS = {name: name.replace("_", "/", 1) for name in Point._fields}  # as the metrics are called


class Curve(NamedTuple):
    """A run's learning curve."""

    points: Sequence[Point]
    settings: dict[str, Any]
    """The hyperparameters, and those of schedules: runs that share them differ by their seeds."""
    run: Path | None = None
    """The folder, if it was read from one."""

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


def write_curve(folder: Path, curve: Curve) -> None:
    """Writes the curve of a run's folder and the hyperparameters that belong to it."""
    temporary = folder / f"{FILE}.part"
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS[name] for name in Point._fields)
        for point in curve.points:
            writer.writerow("" if value != value else f"{value:.10g}" for value in point)  # NaN is left out
    temporary.replace(folder / FILE)
    plain = json.loads(json.dumps(curve.settings, default=str))
    (folder / SETTINGS).write_text(yaml.safe_dump(plain))


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
    if not rows or "step" not in rows[0]:
        raise ValueError(f"{path} is no learning curve: a column 'step' was expected.")
    points = []
    for row in rows:
        step, *measured = (float(row.get(column) or "nan") for column in COLUMNS.values())
        points.append(Point(int(step), *measured))
    return Curve(points, _settings(run), run)


def _settings(run: Path) -> dict[str, Any]:
    """The settings of a run's folder, or those of the command line's configuration.

    A run of an older version does not know the newer settings: it had what are their defaults now.
    """
    settings: dict[str, Any] = {}
    if (run / SETTINGS).is_file():
        settings = yaml.safe_load((run / SETTINGS).read_text()) or {}
    elif (run / "config.yaml").is_file():
        model = yaml.safe_load((run / "config.yaml").read_text()).get("model") or {}
        settings = {"_class_path": model.get("class_path", ""), **model.get("init_args", {})}
    return {"callbacks": {}, "precision": "32-true", **_defaults(settings.get("_class_path", "")), **settings}


def _defaults(class_path: str) -> dict[str, Any]:
    """What a module's hyperparameters are where nobody sets them, as far as they are plain values."""
    ours = class_path.startswith("lightning_rl.")  # drawing imports nobody else's code
    module: Any = locate(class_path) if ours else None
    parameters = inspect.signature(module).parameters.items() if module is not None else ()
    return {name: each.default for name, each in parameters if each.default is None or type(each.default) in PLAIN}


def draw(curves: Sequence[Curve], x: Axis = "steps") -> Figure:
    """Draws runs side by side: those of one configuration as their mean and deviation, one run with its episodes'.

    Args:
        curves: at least one.
        x: what lies to the right: environment steps or minutes.

    Raises:
        ValueError: a run has no evaluation, or no minutes; or runs to be averaged have none in common.
    """
    for curve in curves:
        if not len(curve.measured("val_return", x)[0]):
            raise ValueError(f"{curve.run or curve.label} has no evaluation over {x} to draw.")
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
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))  # more would touch each other
            axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.legend(loc="lower right")
    return figure


def _draw_run(axes: Axes, curve: Curve, x: Axis, colour: str, name: str, alone: bool) -> None:
    if alone:
        axes.plot(*curve.measured("train_return", x), color="0.6", linewidth=1, label="training episodes")
    at, mean = curve.measured("val_return", x)
    spread = curve.measured("val_return_std", x)[1]
    axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    label = f"{name} ± deviation of its episodes" if alone else name
    axes.plot(at, mean, color=colour, linewidth=1.8, marker="o" if len(at) == 1 else None, label=label)


def _draw_group(axes: Axes, group: Sequence[Curve], x: Axis, colour: str, name: str) -> None:
    lines = [curve.measured("val_return", x) for curve in group]
    first, last = max(at[0] for at, _ in lines), min(at[-1] for at, _ in lines)
    at = np.unique(np.concatenate([at for at, _ in lines]))
    at = at[(at >= first) & (at <= last)]
    if not len(at):
        runs = ", ".join(str(curve.run or curve.label) for curve in group)
        raise ValueError(f"{runs} were evaluated at no {x} in common, over which their mean could be drawn.")
    returns = np.stack([np.interp(at, *line) for line in lines])
    mean, spread = returns.mean(0), returns.std(0)
    axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    marker = "o" if len(at) == 1 else None
    axes.plot(at, mean, color=colour, linewidth=1.8, marker=marker, label=f"{name}: mean ± deviation")


def _name(group: Sequence[Curve], groups: Sequence[Sequence[Curve]]) -> str:
    """What tells one configuration from the others: its label, and the hyperparameters in which those of one differ."""
    label = group[0].label
    alike = [_flat(each[0].settings) for each in groups if each[0].label == label]
    own = _flat(group[0].settings)
    names = sorted(set().union(*alike))
    told = [name for name in names if any(each.get(name) != own.get(name) for each in alike)]
    differing = [f"{name}{TOGETHER}{own.get(name)}" for name in told]
    if not differing:
        return label
    if len(differing) > SHOWN:
        differing = [*differing[:SHOWN], "…"]
    text = ", ".join(differing if len(alike) == len(groups) else [label, *differing])
    return textwrap.fill(text, width=60).replace(TOGETHER, " ")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested hyperparameters by their whole names: an optimizer's ``lr`` is ``optimizer.lr``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, prefix if name == "init_args" else f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
