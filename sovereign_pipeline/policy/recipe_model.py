"""The base of every model that an institution fills in by hand, and the one reader of its YAML files."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sovereign_pipeline.errors import RecipeError

_WORDS_OF_YAML = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping of keys to values"),
}
SHOWN_CHARACTERS = 60  # of a value that is wrong: longer ones are texts, not words that somebody mistyped


class RecipeModel(BaseModel):
    """Frozen, and an unknown key is an error: a misspelt limit must never become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _EachKeyOnce(yaml.SafeLoader):
    """YAML takes the last of two equal keys; here a limit that is written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for number, key in enumerate(written) if key in written[:number] and key != "<<"]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{twice[0]}' is written twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


Model = TypeVar("Model", bound=RecipeModel)


def read_yaml(model: type[Model], path: Path) -> Model:
    """Read and validate one file. Raises RecipeError that names file, key, and the nearest known key."""
    if not path.is_file():
        raise RecipeError(f"{path}: there is no such file.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _EachKeyOnce)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable as YAML in UTF-8: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: must be a mapping of keys to values at the top.")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_explain(model, detail) for detail in error.errors(include_url=False))
        end = "" if problems.endswith("?") else "."
        raise RecipeError(f"{path}: {problems}{end} Correct the file and run `sovereign lines check {path}`.") from None


def _explain(model: type[RecipeModel], detail: Any) -> str:
    location = [part for part in detail["loc"]]
    where = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        return f"'{where}' is not a known key; {nearest_known(str(location[-1]), _known_keys(model, location[:-1]))}"
    if detail["type"] == "missing":
        return f"'{where}' is missing"
    said = detail["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    if said.startswith("Input should be "):
        wanted = _WORDS_OF_YAML.get(detail["type"], said.removeprefix("Input should be "))
        given = detail["input"]
        is_short = isinstance(given, bool | int | float) or (isinstance(given, str) and len(given) <= SHOWN_CHARACTERS)
        return f"'{where}' must be {wanted}{f', and is {given!r}' if is_short else ''}"
    return f"'{where}': {said}" if where else said


def nearest_known(word: str, known: Sequence[str]) -> str:
    """The end of a message about a word that is not known: what was probably meant, or all that is known."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(known)}"


def _known_keys(model: type[RecipeModel], location: list[Any]) -> list[str]:
    """Field names of the model found by walking `location`, looking through lists, dicts, optionals and unions.

    Where pydantic chose among several models by a tag, the tag stands in `location` behind the field's name.
    """
    current: list[type[BaseModel]] = [model]
    for part in location:
        if not isinstance(part, str):
            continue
        fields = [each.model_fields[part] for each in current if part in each.model_fields]
        if not fields:
            current = [each for each in current if part in _tags(each)] or current
            continue
        current = [nested for field in fields for nested in _models_in(field.annotation)] or current
    return list(current[0].model_fields)


def _tags(model: type[BaseModel]) -> list[Any]:
    annotations = [field.annotation for field in model.model_fields.values()]
    return [tag for annotation in annotations if get_origin(annotation) is Literal for tag in get_args(annotation)]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _models_in(argument)]
