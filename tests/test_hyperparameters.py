import io
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_rl.algorithms.hyperparameters import (
    import_path,
    plain,
    require_integer,
    require_multiple,
    require_within,
)


class Nested:
    class Environment:
        pass

    def method(self) -> None:
        pass


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def test_integers_from_the_minimum_on_are_accepted() -> None:
    require_integer(3, num_envs=3, batch_size=10**9)


@pytest.mark.parametrize("value", [2, -1, 3.0, "3", True, None])
def test_what_is_no_integer_of_the_minimum_is_refused_by_name(value: Any) -> None:
    message = f"num_envs={value!r}: an integer of at least 3 was expected."
    with pytest.raises(ValueError, match=exactly(message)):
        require_integer(3, batch_size=4, num_envs=value)


def test_true_is_no_integer_even_where_one_is_enough() -> None:
    with pytest.raises(ValueError, match="num_envs=True: an integer of at least 1"):
        require_integer(1, num_envs=True)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0])
def test_numbers_in_a_closed_interval_are_accepted(value: float) -> None:
    require_within(0, 1, gamma=value)


@pytest.mark.parametrize(
    ("value", "ends", "interval"),
    [
        (-0.1, {}, "[0, 1]"),
        (1.0000001, {}, "[0, 1]"),
        (math.nan, {}, "[0, 1]"),
        ("0.5", {}, "[0, 1]"),
        (True, {}, "[0, 1]"),
        (None, {}, "[0, 1]"),
        (0, {"open_low": True}, "(0, 1]"),
        (1.0, {"open_high": True}, "[0, 1)"),
        (0.0, {"open_low": True, "open_high": True}, "(0, 1)"),
    ],
)
def test_number_out_of_its_interval_is_refused_with_the_interval(value: Any, ends: dict, interval: str) -> None:
    message = f"tau={value!r}: a number in {interval} was expected."
    with pytest.raises(ValueError, match=exactly(message)):
        require_within(0, 1, **ends, gamma=0.5, tau=value)


def test_open_ends_exclude_themselves_alone() -> None:
    require_within(0, 1, open_low=True, open_high=True, tau=1e-12)
    require_within(0, 1, open_high=True, tau=0)
    require_within(0, 1, open_low=True, tau=1)


def test_infinity_is_never_a_value_and_always_an_open_end() -> None:
    require_within(0, math.inf, alpha=1e30)
    with pytest.raises(ValueError, match=exactly("alpha=inf: a number in [0, inf) was expected.")):
        require_within(0, math.inf, alpha=math.inf)


@pytest.mark.parametrize(("value", "nearest"), [(33, 32), (47, 48), (1, 16), (7, 16), (15, 16)])
def test_number_that_is_no_multiple_is_refused_with_the_nearest_that_is(value: int, nearest: int) -> None:
    message = f"train_freq={value}: a multiple of num_envs (16) was expected; the nearest is {nearest}."
    with pytest.raises(ValueError, match=exactly(message)):
        require_multiple(buffer_size=(32, "num_envs", 16), train_freq=(value, "num_envs", 16))


def test_multiples_are_accepted() -> None:
    require_multiple(train_freq=(16, "num_envs", 16), learning_starts=(0, "num_envs", 16), more=(64, "num_envs", 16))


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "auto", [1, [2.5, "x"]], {"lr": 1e-3, "deep": {"a": None}}])
def test_plain_values_stay_as_they_are(value: Any) -> None:
    assert plain(value) == value
    assert type(plain(value)) is type(value)


def test_tuples_become_lists_and_keys_texts() -> None:
    assert plain({"hidden_sizes": (64, (32, 16)), 3: "three"}) == {"hidden_sizes": [64, [32, 16]], "3": "three"}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (nn.ReLU, "torch.nn.modules.activation.ReLU"),
        (torch.optim.Adam, "torch.optim.adam.Adam"),
        (math.sqrt, "math.sqrt"),
        (Path, "pathlib.Path"),
        (Nested.Environment, f"{__name__}.Nested.Environment"),
    ],
)
def test_classes_and_functions_become_import_paths(value: Any, path: str) -> None:
    assert plain(value) == import_path(value) == path


def test_partial_becomes_a_class_path_with_its_keywords() -> None:
    nested = partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.99), activation=partial(nn.LeakyReLU, negative_slope=0.1))
    assert plain(nested) == {
        "class_path": "torch.optim.adam.Adam",
        "init_args": {
            "lr": 1e-3,
            "betas": [0.9, 0.99],
            "activation": {
                "class_path": "torch.nn.modules.activation.LeakyReLU",
                "init_args": {"negative_slope": 0.1},
            },
        },
    }


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda: None, "function"),
        (nn.Linear(1, 1), "Linear"),
        (Nested().method, "method"),
        (partial(nn.Linear, 3), "partial"),
        (partial(lambda: None), "partial"),
        (np.zeros(2), "ndarray"),
    ],
)
def test_what_has_no_import_path_becomes_a_text_that_says_what_to_do(value: Any, kind: str) -> None:
    assert plain({"given": value}) == {
        "given": f"<a {kind} that the checkpoint could not store; give it again as a keyword argument of "
        "load_from_checkpoint, or, an environment, on the command line as its import path>"
    }


def test_name_that_leads_to_something_else_is_no_import_path() -> None:
    def sqrt() -> None: ...

    sqrt.__module__, sqrt.__qualname__ = "math", "sqrt"
    assert import_path(sqrt) is None
    sqrt.__module__ = "no_such_module"
    assert import_path(sqrt) is None


def loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_plain_values_load_without_pickled_classes() -> None:
    values = plain({"a": nn.ReLU, "b": partial(nn.Linear, bias=False), "c": (1, 2.5), "d": object(), "e": None})
    assert loaded(values) == values


def test_numpy_floats_load_without_pickled_classes() -> None:
    assert loaded(plain({"gamma": np.float64(0.98)})) == {"gamma": 0.98}
