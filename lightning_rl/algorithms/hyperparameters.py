"""Hyperparameters: checked when they are given, plain values when they are stored."""

import importlib
import inspect
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule

from lightning_rl.networks.mirror import Mirror

NOT_STORED = (  # YAML must read it as a text: no colon before a space
    "that the checkpoint could not store; give it again as a keyword argument of load_from_checkpoint, or, an "
    "environment, on the command line as its import path>"
)


def require_integer(minimum: int, **values: int | Sequence[int]) -> None:
    """Refuses what is not an integer of at least the minimum, or a sequence of such.

    Raises:
        ValueError: says which value was given and what was expected.
    """
    for name, given in values.items():
        for value in given if isinstance(given, Sequence) else [given]:
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise ValueError(f"{name}={value!r}: an integer of at least {minimum} was expected.")


def require_within(
    low: float, high: float, *, open_low: bool = False, open_high: bool = False, **values: float
) -> None:
    """Refuses what is not a number in the interval.

    Raises:
        ValueError: says which value was given and what was expected.
    """
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < low or value > high or (open_low and value == low) or (open_high and value == high):
            interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or high == math.inf else ']'}"
            raise ValueError(f"{name}={value!r}: a number in {interval} was expected.")


def require_multiple(**values: tuple[int, str, int]) -> None:
    """Refuses a number that is no whole multiple of another.

    Args:
        **values: for each name its value, the other's description and the other's value.

    Raises:
        ValueError: names both numbers and the nearest that would do.
    """
    for name, (value, of, divisor) in values.items():
        if value % divisor:
            nearest = max(1, round(value / divisor)) * divisor
            raise ValueError(f"{name}={value}: a multiple of {of} ({divisor}) was expected; the nearest is {nearest}.")


def require_stored(value: Any) -> None:
    """Refuses what a checkpoint could not store.

    Raises:
        ValueError: the value holds a text that `plain` left in the place of another.
    """
    if isinstance(value, str) and value.endswith(NOT_STORED):
        raise ValueError(value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        require_stored(item)


def plain(value: Any) -> Any:
    """A value that a checkpoint can carry without pickling: callables become import paths, in jsonargparse's form.

    What has no import path (a lambda, a module that is already built) becomes a text that says so, which fails with
    that text when the checkpoint is loaded without the value being given again.
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, partial) and not value.args:
        path = import_path(value.func)
        if path is not None:
            return {"class_path": path, "init_args": plain(value.keywords)}
    return import_path(value) or f"<a {type(value).__name__} {NOT_STORED}"


def plain_settings(value: Any) -> Any:
    """As `plain`, for what nobody turns back from its plain form: what would come back as something else is left out.

    But for tuples, which come back as lists.
    """
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain_settings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_settings(item) for item in value]
    return f"<a {type(value).__name__} {NOT_STORED}" if callable(value) or isinstance(value, dict) else plain(value)


def import_path(value: Any) -> str | None:
    """Where a class or function can be imported from, if anywhere."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or name is None or module == "__main__":
        return None
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return f"{module}.{name}" if found is value else None


def storable(module: LightningModule) -> dict[str, Any]:
    """A module's hyperparameters as plain values, with what ``load_from_checkpoint`` needs to build it again."""
    initialisers = [vars(each)["__init__"] for each in type(module).__mro__ if "__init__" in vars(each)]
    signatures = [inspect.signature(each) for each in initialisers]
    defaults = {name: each.default for signature in signatures for name, each in signature.parameters.items()}
    values = {
        name: plain(value)
        for name, value in module.hparams.items()
        # A default that is a lambda has no import path, and needs none.
        if not (callable(value) and value is defaults.get(name))
    }
    if callable(module.hparams.get("env")) and isinstance(values["env"], dict):  # an environment is a path, or nothing
        values["env"] = f"<a {type(module.hparams['env']).__name__} {NOT_STORED}"
    if isinstance(module.hparams.get("mirror"), Mirror):  # other dataclasses would come back as dictionaries
        values["mirror"] = plain(asdict(module.hparams["mirror"]))
    values["env_kwargs"] = plain_settings(module.hparams.get("env_kwargs"))
    values["_class_path"] = f"{type(module).__module__}.{type(module).__qualname__}"
    values["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
    return values
