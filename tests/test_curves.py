import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_rl.cli import main
from lightning_rl.curves import Curve, Point, draw, read_curve, write_curve


def points(returns: list[float], first: int = 100, minutes: float = 1.0) -> list[Point]:
    return [
        Point(first * (i + 1), minutes * (i + 1), math.nan if i == 0 else value - 1, value, 2.0, 30.0)
        for i, value in enumerate(returns)
    ]


def a_run(name: str, returns: list[float], **settings: Any) -> Path:
    folder = Path(name)
    folder.mkdir()
    hyperparameters = {"_class_path": "lightning_rl.algorithms.sac.SACModule", "env": "Pendulum-v1", **settings}
    write_curve(folder, Curve(points(returns), hyperparameters))
    return folder


def test_a_folder_gives_back_the_curve() -> None:
    run = a_run("run", [-10.5, math.nan, 3.25])
    curve = read_curve(run)
    assert str(curve.points) == str(points([-10.5, math.nan, 3.25]))  # NaN is not equal to itself
    assert curve.label == "SAC on Pendulum-v1"
    at, returns = curve.measured("val_return", "minutes")
    assert (at.tolist(), returns.tolist()) == ([1.0, 3.0], [-10.5, 3.25])


def test_several_seeds_are_their_mean_and_deviation() -> None:
    one = Curve(points([0.0, 10.0, 20.0]), {"gamma": 0.9})
    other = Curve(points([4.0, 4.0], first=150), {"gamma": 0.9})
    [axes] = draw([one, other]).axes
    [line] = axes.lines
    # Both were evaluated between 150 and 300 steps: the one is at 5, 10 and 20 there, the other always at 4.
    assert line.get_xdata().tolist() == [150, 200, 300]
    np.testing.assert_allclose(line.get_ydata(), [4.5, 7.0, 12.0])
    [band] = axes.collections
    vertices = band.get_paths()[0].vertices
    heights = {x: sorted(set(vertices[vertices[:, 0] == x, 1].round(9))) for x in (150, 200, 300)}
    assert heights == {150: [4.0, 5.0], 200: [4.0, 10.0], 300: [4.0, 20.0]}  # two runs: mean ± half their distance
    assert "2 runs" in axes.get_legend().get_texts()[0].get_text()


def test_one_run_shows_its_training_and_its_evaluations_spread() -> None:
    [axes] = draw([Curve(points([1.0, 2.0, 3.0]), {})]).axes
    training, evaluation = axes.lines
    assert training.get_xdata().tolist() == [200, 300]
    assert training.get_ydata().tolist() == [1.0, 2.0]
    assert evaluation.get_ydata().tolist() == [1.0, 2.0, 3.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "return")


def test_configurations_are_told_apart_by_what_differs() -> None:
    settings = {"_class_path": "x.SACModule", "env": "Pendulum-v1"}
    curves = [Curve(points([1.0, 2.0]), {**settings, "gamma": gamma}) for gamma in (0.9, 0.99, 0.9)]
    [axes] = draw(curves, "minutes").axes
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert told == ["gamma 0.9, 2 runs: mean ± deviation", "gamma 0.99"]
    adam = [{"class_path": "torch.optim.Adam", "init_args": {"lr": lr, "fused": True}} for lr in (1e-3, 1e-4)]
    curves += [Curve(points([1.0, 2.0]), {**settings, "env": "Other-v0", "optimizer": each}) for each in adam]
    told = [text.get_text() for text in draw(curves).axes[0].get_legend().get_texts()]
    assert told[1:] == [
        "SAC on Pendulum-v1, gamma 0.99",
        "SAC on Other-v0, optimizer.lr 0.001",
        "SAC on Other-v0, optimizer.lr 0.0001",
    ]
    del curves[3:]
    assert axes.get_title(loc="left") == "SAC on Pendulum-v1"
    assert axes.get_xlabel() == "minutes"
    others = [curves[0], Curve(points([1.0]), {"_class_path": "x.TRPOModule", "env": "Pendulum-v1"})]
    told = [text.get_text() for text in draw(others).axes[0].get_legend().get_texts()]
    assert told == ["SAC on Pendulum-v1", "TRPO on Pendulum-v1"]


def test_runs_of_older_versions_are_seeds_of_the_same_and_a_schedule_is_told() -> None:
    schedule = {"GrowingHorizon": {"gamma": 0.99, "updates": 3}}
    newer = {"tau": 0.01, "precision": "32-true"}  # what they are by default
    runs = [a_run("old", [3.0]), a_run("new", [1.0, 2.0], callbacks={}, **newer), a_run("newest", [2.0], **newer)]
    other = a_run("other", [1.0], callbacks=schedule, **newer)
    told = [text.get_text() for text in draw(list(map(read_curve, [other, *runs]))).axes[0].get_legend().get_texts()]
    told.reverse()
    assert told[0].endswith("3 runs: mean ± deviation")
    assert told[1] == "callbacks.GrowingHorizon.gamma 0.99,\ncallbacks.GrowingHorizon.updates 3"


def test_a_legend_stays_within_its_picture() -> None:
    curves = [Curve(points([1.0, 2.0]), {f"a_hyperparameter_{name}": value for name in range(30)}) for value in (1, 2)]
    figure = draw(curves)
    figure.savefig("picture.png")
    [axes] = figure.axes
    legend, picture = axes.get_legend().get_window_extent(), figure.bbox
    assert 0 < legend.x0 < legend.x1 < picture.x1
    assert axes.get_legend().get_texts()[0].get_text().endswith(", …")


def test_seeds_without_anything_in_common_are_told_of() -> None:
    with pytest.raises(ValueError, match=r"one, other were evaluated at no minutes in common"):
        draw(
            [Curve(points([1.0], minutes=minutes), {}, Path(name)) for name, minutes in (("one", 1), ("other", 2))],
            "minutes",
        )
    [line] = draw([Curve(points([value]), {}) for value in (1.0, 3.0)]).axes[0].lines
    assert (line.get_ydata().tolist(), line.get_marker()) == ([2.0], "o")


def test_the_command_draws_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(a_run(name, [1.0, 2.0], gamma=gamma)) for name, gamma in (("a", 0.9), ("b", 0.9), ("c", 0.5))]
    main(["plot", *runs, "--x", "minutes", "--output", "picture.png"])
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")
    assert "The picture is in picture.png" in capsys.readouterr().out


def test_runs_without_what_is_drawn_are_told_of() -> None:
    never = Curve([Point(100, 1.0, 2.0, math.nan, math.nan, math.nan)], {"_class_path": "x.SACModule", "env": "A-v0"})
    with pytest.raises(ValueError, match="SAC on A-v0 has no evaluation over steps"):
        draw([Curve(points([1.0]), {}), never])
    with pytest.raises(ValueError, match="over minutes"):
        draw([Curve([point._replace(minutes=math.nan) for point in points([1.0, 2.0])], {})], "minutes")


def test_a_folder_without_a_curve_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plot", "nothing"])
    assert "nothing holds no curve.csv" in capsys.readouterr().err
    assert not Path("curves.png").exists()
