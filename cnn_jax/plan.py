"""The plan: a config as typed, frozen dataclasses, and the functions to read one.

`sections/` declares the keys, with their types, defaults, comments and ranges of values. No other
file than this one reads a config.

    plan.read(given)       # a ConfigDict, a mapping or a Plan -> Plan
    plan.config(a_plan)    # Plan -> ConfigDict, for config files and the command line
    plan.phases(a_plan)    # Plan -> the plan of each phase
    plan.stored(text)      # the config.json of a run made by any version of cnn_jax -> Plan

This file imports nothing heavy, so a mistake in a config is reported within a second. `train.check`
checks the names of networks, data sources, optimizers and losses, because it has to import them.
"""

import dataclasses
import types
from collections.abc import Mapping
from itertools import islice
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from cnn_jax import errors, schema
from cnn_jax.runtime import files, seeds
from cnn_jax.sections import (
    GIVEN,
    Checkpoint,
    Data,
    Distill,
    Ema,
    Eval,
    Init,
    Log,
    Loss,
    Model,
    Optim,
    Plan,
    Schedule,
    Train,
)

__all__ = [
    "GIVEN",
    "Checkpoint",
    "Data",
    "Distill",
    "Ema",
    "Eval",
    "Init",
    "Log",
    "Loss",
    "Model",
    "Optim",
    "Plan",
    "Schedule",
    "Train",
    "config",
    "differences",
    "fill_automatic",
    "flatten",
    "is_material",
    "keys",
    "phases",
    "read",
    "stored",
    "to_dict",
]

_OPEN_SECTION = "model"
_CLASSES = "model.num_classes"  # an argument of networks that no config sets
_MOST_PROBLEMS = 20  # in one message
# The sections whose keys can differ between phases. Keys of `train` need no section there.
_OF_PHASES = ("train", "optim", "loss", "distill", "ema", "eval")
_COUNTED = ("top1", "top5")  # metrics that are counts of examples

# Options with other defaults before optim.decay came, by network: poolings rounded otherwise.
_EARLIER_OPTIONS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
    {
        "zfnet512": {"model.ceil_mode": True, "model.pooling_windows": (3, 3, 3)},
        **{
            name: {"model.ceil_mode": False}
            for name in ("alexnet", "alexnet_single", "alexnet_caffe", "caffenet")
        },
    }
)


def keys() -> Mapping[str, schema.Key]:
    """Returns every config key by its path, in the order of the sections."""
    return _KEYS


_KEYS: Mapping[str, schema.Key] = types.MappingProxyType(
    {key.path: key for key in schema.keys_of(Plan)}
)


def read(given: ConfigDict | Mapping[str, Any] | Plan) -> Plan:
    """Returns the plan of a config.

    Args:
      given: a config, complete or not; missing keys take their defaults. A mapping may have paths
        such as 'optim.learning_rate' beside its sections; they replace the values in the sections.

    Raises:
      UserError: keys that do not exist, values of another type or out of range. One message lists
        up to 20 of them; mistakes in `phases` come after all others are corrected.
    """
    if isinstance(given, Plan):
        given = to_dict(given)
    values = _with_options(_values(given))
    options = {path: values.pop(path) for path in list(values) if _is_option(path)}
    problems = list(
        islice((_unknown(path) for path in values if path not in _KEYS), _MOST_PROBLEMS)
    )
    if _CLASSES in options:
        problems.append(f"{_CLASSES} is no key: the data set has the number of classes")
    checked: dict[str, Any] = {}
    for path, value in values.items():
        if path in _KEYS:
            try:
                checked[path] = schema.convert(_KEYS[path], value)
            except errors.UserError as error:
                problems.append(str(error))
    problems.extend(
        f"{path} must be of texts, numbers, True, False, None, lists, arrays and dictionaries, "
        f"which config.json can hold, got {type(part).__name__}"
        for path, value in {**options, **checked}.items()
        for part in islice(schema.unstorable(value), 1)
    )
    if problems:
        raise errors.UserError("\n".join(problems[:_MOST_PROBLEMS]))
    prefix = f"{_OPEN_SECTION}."
    named = {path.removeprefix(prefix): schema.as_tuple(value) for path, value in options.items()}
    plan = schema.build(Plan, checked)
    plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, options=named))
    phases(plan)  # Raises the error of a mistake in one of them.
    return plan


def _values(given: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config by path.

    Raises:
      UserError: the config is not a mapping, lacks a required value, or contains itself.
    """
    if not isinstance(given, (ConfigDict, Mapping)):
        kind = type(given).__name__
        raise errors.UserError(f"a config must be a ConfigDict, a mapping or a Plan, got {kind}")
    try:
        nested = given.to_dict() if isinstance(given, ConfigDict) else given
        values = list(schema.flatten(nested, _is_leaf))
        values = [(path, schema.as_tuple(value)) for path, value in values]
    except RecursionError as error:
        raise errors.UserError("the config is nested too deeply, or contains itself") from error
    except RequiredValueError as error:
        raise errors.UserError(f"the config has a placeholder without a value: {error}") from error
    # Paths come last, so that they replace the values in the sections.
    return dict(sorted(values, key=lambda item: item[0] in nested))


def config(plan: Plan) -> ConfigDict:
    """Returns the plan as a ConfigDict, for config files and the command line.

    Only `model`, `optim.options` and `loss.options` accept new keys: options of the network, and
    of an optimizer or a loss 'module:attribute'.
    """
    result = ConfigDict(to_dict(plan), convert_dict=True)
    result.lock()
    for section in (result[_OPEN_SECTION], result.optim.options, result.loss.options):
        section.unlock()
    return result


def to_dict(plan: Plan) -> dict[str, Any]:
    """Returns the plan as nested dictionaries, as in config.json."""
    content = schema.to_dict(plan)
    content[_OPEN_SECTION] |= content[_OPEN_SECTION].pop("options")
    return content


def stored(text: str) -> Plan:
    """Returns the plan in the config.json of a run that any version of cnn_jax has made.

    Raises:
      UserError: the text is not JSON, or not a config of this version or an earlier one.
    """
    try:
        content = files.parse_json(text)
    except ValueError as error:
        raise errors.UserError(str(error)) from error
    values = _values(content)
    if "optim.decay" not in values:
        values = {**_EARLIER_OPTIONS.get(str(values.get("model.name")), {}), **values}
    for path, key in _KEYS.items():
        if key.since:
            earlier = values.pop(key.renamed_from, key.before) if key.renamed_from else key.before
            values.setdefault(path, earlier)
    missing = [path for path in _KEYS if path not in values]
    if missing:
        raise errors.UserError(f"it lacks {errors.listed(missing, 3)}")
    return read(values)


def phases(given: Plan) -> tuple[Plan, ...]:
    """Returns the plan of each phase of a run, with empty `phases` and a seed for the phase.

    >>> run = read({"phases": [{"epochs": 3, "trainable": "head"}, {"epochs": 10}]})
    >>> [(phase.train.epochs, phase.train.trainable) for phase in phases(run)]
    [(3.0, 'head'), (10.0, '')]

    Args:
      given: the plan of the run.

    Raises:
      UserError: a phase sets an unknown key, one that cannot differ between phases, a key twice, or
        a value of another type or out of range.
    """
    common = dataclasses.replace(given, phases=())
    found = []
    for number, settings in enumerate(given.phases, start=1):
        try:
            values: dict[str, Any] = {}
            for name, value in _values(settings).items():
                if (path := _of_phase(name)) in values:
                    raise errors.UserError(f"{path} is given twice; leave one of them out")
                values[path] = value
            seed = seeds.of_phase(given.seed, number)
            found.append(read({**flatten(common), **values, "seed": seed}))
        except errors.UserError as error:
            raise errors.UserError(f"phases, entry {number}: {error}") from error
    return tuple(found)


def _of_phase(path: str) -> str:
    """Returns the whole path of a key that a phase sets: 'train.steps' for 'steps'.

    Raises:
      UserError: the key cannot differ between phases.
    """
    if f"train.{path}" in _KEYS:
        path = f"train.{path}"
    if not path.startswith(tuple(f"{section}." for section in _OF_PHASES)):
        owned = ", ".join(sorted(key for key in _KEYS if key.startswith("train.")))
        raise errors.UserError(
            f"{path!r} is no key that can differ between phases; allowed are those of the sections "
            f"{', '.join(_OF_PHASES)}, such as {owned}"
        )
    return path


def fill_automatic(given: Plan, known: Plan) -> Plan:
    """Returns `given` with automatic values, such as `data.storage` 'auto', taken from `known`.

    If `given.model.name` is automatic, the options of the network that `given` does not set are
    taken too. Else only the options are taken whose defaults earlier versions did not have.

    Args:
      given: the config that a user gave.
      known: the config of the run that is continued, where automatic values are resolved.
    """
    values, source = flatten(given), flatten(known)
    for path, key in _KEYS.items():
        if key.automatic is not None and values[path] == key.automatic:
            values[path] = source[path]
    named = source if not given.model.name else _EARLIER_OPTIONS.get(known.model.name, {})
    for path in filter(_is_option, named.keys() & source.keys()):
        values.setdefault(path, source[path])
    return read(values)


def flatten(plan: Plan) -> dict[str, Any]:
    """Returns the values of a plan by path, such as 'optim.learning_rate'."""
    return dict(schema.flatten(to_dict(plan), _is_leaf))


def differences(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """Returns the values (old, new) that differ, by path; None where an option is not given."""
    before, after = flatten(old), flatten(new)
    return {
        path: (before.get(path), after.get(path))
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    }


def material_differences(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """Returns the differences, as above, that can change the parameters at the end of training.

    If both have the same number of phases, these are compared key by key, such as 'phases, entry
    2: optim.learning_rate'.

    Raises:
      UserError: `phases` has a value that is not allowed.
    """
    common = differences(old, new)
    found = {path: values for path, values in common.items() if is_material(path, new)}
    if len(old.phases) != len(new.phases):
        return found
    found.pop("phases", None)
    for number, (before, after) in enumerate(zip(phases(old), phases(new), strict=True), start=1):
        for path, values in differences(before, after).items():
            if path not in common and is_material(path, after):
                found[f"phases, entry {number}: {path}"] = values
    return found


def is_material(path: str, plan: Plan) -> bool:
    """Returns True if another value of the key can change the parameters at the end of training.

    If validations lower the learning rate or end the run, `eval.every_epochs` is such a key.
    `eval.batch_size` is one, too, because the rounding of values such as a loss depends on it.
    Monitored accuracies are the exception: they are ratios of counts.

    Args:
      path: the key.
      plan: the plan of the training.
    """
    if plan.optim.schedule.name == "plateau" or plan.eval.patience:
        if path == "eval.every_epochs":
            return True
        if path == "eval.batch_size" and plan.eval.monitor not in _COUNTED:
            return True
    return path not in _KEYS or _KEYS[path].material


def _with_options(values: dict[str, Any]) -> dict[str, Any]:
    """Moves values such as 'optim.options.rho' into the dictionary of 'optim.options'."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        owner, _, name = path.rpartition(".")
        if owner in _KEYS and _KEYS[owner].type is dict:
            result[owner] = {**result.get(owner, {}), name: value}
        else:
            result[path] = value
    return result


def _unknown(path: str) -> str:
    for new, key in _KEYS.items():
        if path == key.renamed_from != "":
            return f"{path} is now {new}"
    return f"unknown config key {path!r}; {errors.nearest(path, _KEYS)}"


def _is_leaf(path: str) -> bool:
    return path in _KEYS or _is_option(path)


def _is_option(path: str) -> bool:
    return path.startswith(f"{_OPEN_SECTION}.") and path not in _KEYS
