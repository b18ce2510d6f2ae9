"""Define and load an experiment: training runs of one line that differ in keys of the recipe's section `training`."""

import difflib
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import Field, field_validator

from sovereign_pipeline.base.errors import NotFoundError, RecipeError
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import LINE_NAME, Line, load_line
from sovereign_pipeline.policy.recipe_model import NotAllowed, RecipeModel, read_value, read_yaml, validated

Value = bool | int | float | str | None | tuple[str, ...]
VARIABLE = re.compile(r"seed|sft\.[^.]+")
"""Keys below `training` that may vary. Trials share the base model and the datasets."""
DRAWS_PER_TRIAL = 100
"""Maximum number of random draws for each trial of a random search. Without it, drawing would never end if the lists
have fewer different combinations than trials."""
DIGITS = 3
"""Significant digits of a number drawn from a range, so that a person can copy it into a recipe."""


class Range(RecipeModel):
    """A range of numbers from which a random search draws."""

    low: float
    """Smallest number."""

    high: float
    """Largest number."""

    scale: Literal["linear", "log"] = "linear"
    """`log` draws every order of magnitude equally often, as is usual for learning rates."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: not it.low < it.high, "low must be less than high"),
        (lambda it: it.scale == "log" and it.low <= 0, "a range with scale: log needs a low above 0"),
    )

    def draw(self, source: random.Random) -> float:
        if self.scale == "log":
            number = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        else:
            number = source.uniform(self.low, self.high)
        return float(f"{number:.{DIGITS}g}")


class Halving(RecipeModel):
    """Successive halving: trials are compared after several numbers of steps (rungs), and only the best trials of a
    rung continue. Jamieson and Talwalkar 2016 ("Non-stochastic Best Arm Identification and Hyperparameter
    Optimization", algorithm 1); Li et al. 2018 ("Hyperband", algorithm 1), with one bracket."""

    steps: tuple[int, ...] = Field(min_length=1, examples=[[6, 12]])
    """Optimizer steps after which trials are compared, ascending. After the last rung, the best trials train to the end
    of their recipe. If the first comparison is too early, it favours settings that learn fast only at first."""

    keep: float = Field(default=0.5, gt=0, lt=1)
    """Share of a rung's trials that continue, rounded up. Jamieson and Talwalkar use a half; Li et al. use a third."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: it.steps[0] < 1 or any(a >= b for a, b in pairwise(it.steps)), "steps must be ascending, from 1"),
    )


class Budget(RecipeModel):
    """The limits of an experiment."""

    trials: int = Field(ge=2, le=200, examples=[12])
    """Maximum number of trials of a grid; exact number of trials of a random search."""

    hours: float | None = Field(default=None, gt=0)
    """Total hours of all trials, over all runs of the experiment. No trial begins after this time; null: no limit."""


class Experiment(RecipeModel):
    """An experiment on a line. The trials are compared on the line's selection side (`split.selection`), and no adapter
    is registered."""

    experiment: str = Field(examples=["rate-and-rank"])
    """Name of the experiment and of its file: a-z, 0-9, '-' and '_'."""

    line: str = Field(examples=["permits-desk"])
    """Line whose recipe the trials vary."""

    vary: dict[str, tuple[Value, ...] | Range] = Field(min_length=1, examples=[{"sft.rank": [8, 16]}])
    """Maps a key below `training`, such as `sft.learning_rate`, to a list of values. For a random search, a range is
    also possible. In a grid, the trials are all combinations of the lists. `seed` and the keys of `sft`, except
    `supervise`, may vary."""

    random_seed: int | None = None
    """Seed of a random search, which draws `budget.trials` settings from the lists and ranges; null: a grid."""

    decided_by: Literal["selection_loss"] = "selection_loss"
    """The measure to minimise: the mean loss per reply token on the selection side, in nats."""

    budget: Budget
    """Limits of the experiment."""

    halving: Halving | None = None
    """Early stopping of the worse trials; null: every trial trains to the end."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: it.random_seed is None and ", ".join(k for k, v in it.vary.items() if isinstance(v, Range)),
            "a grid has no ranges ({1}): write a list, or set random_seed for a random search",
        ),
        (
            lambda it: it.random_seed is None and it.grid_size > it.budget.trials and it.grid_size,
            "the grid has {1} trials, and budget.trials is {0.budget.trials}: shorten the lists, raise the budget, or "
            "set random_seed to draw that many",
        ),
        (
            lambda it: it.random_seed is None and it.grid_size < 2,
            "the experiment has only one setting: add a value to a list of vary",
        ),
        (
            lambda it: "sft.adapter" in it.vary and "sft.learning_rate" not in it.vary,
            "the default learning rate depends on sft.adapter: vary sft.learning_rate too",
        ),
    )

    @field_validator("experiment")
    @classmethod
    def _usable_as_partition_key(cls, name: str) -> str:
        if not LINE_NAME.fullmatch(name):
            raise ValueError("an experiment's name may contain only a-z, 0-9, '-' and '_'")
        return name

    @field_validator("vary")
    @classmethod
    def _decides_no_dataset(cls, vary: Mapping[str, tuple[Value, ...] | Range]) -> Mapping[str, Any]:
        for key, values in vary.items():
            if not VARIABLE.fullmatch(key):
                raise ValueError(
                    f"{key} cannot vary: all trials use the same base model and datasets, and compare only SFT. The "
                    f"keys of training.sft and training.seed can vary"
                )
            if key == "sft.supervise":
                raise ValueError(f"{key} cannot vary: trials would be measured on different replies")
            if isinstance(values, tuple) and (not values or len(set(values)) != len(values)):
                raise ValueError(f"{key} needs a list of different values")
        return vary

    @property
    def grid_size(self) -> int:
        return math.prod(len(each) for each in self.vary.values() if isinstance(each, tuple))

    @property
    def rungs(self) -> tuple[int | None, ...]:
        """Numbers of optimizer steps after which trials are compared. None stands for the end of a trial."""
        return (*(self.halving.steps if self.halving is not None else ()), None)


@dataclass(frozen=True)
class Setting:
    """The recipe of one trial."""

    number: int
    """Number of the trial in its experiment, from 1."""
    values: Mapping[str, Value]
    """Maps a varied key to its value."""
    line: Line
    """The line's recipe with these values."""


def settings_of(experiment: Experiment, line: Line) -> list[Setting]:
    """Return the recipes of all trials, always in the same order. For an invalid value, raises RecipeError that names
    the trial and its values. Also raises RecipeError if the steps of `halving` are not between a trial's warm-up and
    its end."""
    where = f"experiments/{experiment.experiment}.yaml"
    recipe = line.model_dump(mode="json", exclude_unset=True)
    found = []
    for number, values in enumerate(_combinations(experiment), start=1):
        changed = recipe
        for key, value in values.items():
            changed = _with(changed, ("training", *key.split(".")), value)
        described = ", ".join(f"{key}: {value}" for key, value in values.items())
        found.append(Setting(number, values, validated(Line, changed, f"{where}, trial {number} ({described})")))
    steps = experiment.halving.steps if experiment.halving is not None else ()
    for each in found if steps else ():
        sft = each.line.training.sft
        if steps[0] <= sft.warmup_steps or (sft.max_steps is not None and steps[-1] >= sft.max_steps):
            raise RecipeError(
                f"{where}: halving.steps {list(steps)} does not fit trial {each.number}, which has warmup_steps "
                f"{sft.warmup_steps} and max_steps {sft.max_steps or 'null'}.",
                "Choose steps after the warm-up and before the end of every trial.",
            )
    return found


def _combinations(experiment: Experiment) -> Sequence[Mapping[str, Value]]:
    if experiment.random_seed is None:
        lists = [each for each in experiment.vary.values() if isinstance(each, tuple)]
        return [dict(zip(experiment.vary, values, strict=True)) for values in product(*lists)]
    source, wanted = random.Random(experiment.random_seed), experiment.budget.trials
    found: list[Mapping[str, Value]] = []
    for _ in range(DRAWS_PER_TRIAL * wanted):
        drawn = {
            key: each.draw(source) if isinstance(each, Range) else source.choice(each)
            for key, each in experiment.vary.items()
        }
        if drawn not in found:
            found.append(drawn)
        if len(found) == wanted:
            break
    return found


def _with(content: Mapping[str, Any], path: Sequence[str], value: Value) -> dict[str, Any]:
    """Return a copy of a mapping with one value changed."""
    inner = _with(content.get(path[0]) or {}, path[1:], value) if len(path) > 1 else value
    return {**content, path[0]: inner}


def recipe_diff(path: Path, setting: Setting) -> str:
    """Return a unified diff that writes a setting's values into its line's recipe and changes nothing else, not even
    comments. Raises RecipeError if the changed recipe would differ from the setting's."""
    before = after = path.read_text(encoding="utf-8")
    for key, value in setting.values.items():
        after = _written(after, ("training", *key.split(".")), value)
    try:
        is_right = read_yaml(Line, path, content=after.encode()) == setting.line
    except RecipeError:  # for example, a YAML anchor uses the value elsewhere
        is_right = False
    if not is_right:
        values = ", ".join(f"training.{key}: {value}" for key, value in setting.values.items())
        raise RecipeError(f"{path}: no diff could be generated for this file.", f"Change the values by hand: {values}.")
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(old, new, f"a/lines/{path.name}", f"b/lines/{path.name}"))


def _written(text: str, path: Sequence[str], value: Value) -> str:
    """Return the YAML text with a new value at a path. Adds the key if it is missing."""
    node: Any = yaml.compose(text, yaml.SafeLoader)
    for place, part in enumerate(path):
        found = next((inner for key, inner in node.value if key.value == part), None)
        if found is None:
            return _with_key(text, node, path[place:], value)
        node = found
    new = json.dumps(value, ensure_ascii=False)
    is_same = read_value(text[node.start_mark.index : node.end_mark.index]) == value
    return text if is_same else text[: node.start_mark.index] + new + text[node.end_mark.index :]


def _with_key(text: str, mapping: Any, path: Sequence[str], value: Value) -> str:
    """Return the YAML text with a new key in a mapping. Further keys of `path` are nested in braces."""
    new = json.dumps(value, ensure_ascii=False)
    for key in reversed(path[1:]):
        new = f"{{{key}: {new}}}"
    if mapping.flow_style:
        end = mapping.end_mark.index - 1  # the closing brace
        return f"{text[:end]}{', ' if mapping.value else ''}{path[0]}: {new}{text[end:]}"
    start = mapping.start_mark
    return f"{text[: start.index]}{path[0]}: {new}\n{' ' * start.column}{text[start.index :]}"


def experiment_names(data: Path) -> list[str]:
    """Return the sorted names of all experiments that have a file, valid or not."""
    return sorted(path.stem for path in (data / "experiments").glob("*.yaml"))


def load_experiment(data: Path, name: str, institution: Institution) -> tuple[Experiment, Line]:
    """Load an experiment by name, with its line. Raises RecipeError for an invalid file, and NotFoundError, which lists
    the known names, for an unknown experiment or line."""
    path = data / "experiments" / f"{name}.yaml"
    if name not in experiment_names(data):
        known = ", ".join(experiment_names(data)) or "none"
        raise NotFoundError(f"There is no experiment '{name}' under {path.parent}.", f"Known experiments: {known}.")
    experiment = read_yaml(Experiment, path)
    if experiment.experiment != name:
        raise RecipeError(
            f"{path}: the file is named '{name}', but its experiment is '{experiment.experiment}'.",
            "Use the same name for both.",
        )
    return experiment, load_line(data, experiment.line, institution)
