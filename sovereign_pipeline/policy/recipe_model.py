"""Define the base class of models of YAML files that people edit, and read these files. Errors name the key."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from sovereign_pipeline.base.errors import Act, RecipeError
from sovereign_pipeline.base.files import Frozen

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_EXPECTED = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping of keys to values"),
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}
"""Maps a pydantic error type to a description of the expected value in YAML terms."""

_UNQUOTED = {"int_type": (int,), "float_type": (int, float), "bool_type": (bool,)}
"""Maps a pydantic error type to the Python types that the field accepts, to recognise numbers in quotes."""

LARGEST_WHOLE_NUMBER = 2**53
"""Largest accepted whole number. JSON readers may confuse larger numbers (RFC 8259, section 6)."""

FILL_IN = "FILL IN"
"""Placeholder for a value that a person must write, in suggested recipes and for missing keys without an example."""

SHOWN_CHARACTERS = 60
"""Maximum length of a wrong value that a message quotes. A longer value is a text rather than a mistyped word."""


def _make_numbers_strict(schema: Any) -> None:
    """Make numbers and booleans strict in a core schema. Lists are still converted to tuples, and texts to paths."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            schema["strict"] = True
        for part in schema.values():
            _make_numbers_strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _make_numbers_strict(part)


NotAllowed = Sequence[tuple[Callable[[Any], object], str]]
"""Invalid combinations of keys. Each has a function that returns a true value if a model has the combination, and an
error message (`{0}`: the model, `{1}`: the function's result)."""


def named_twice(names: Iterable[object]) -> str:
    """Return all names, separated by commas, if one is repeated. Otherwise return ""."""
    every = [str(name) for name in names]
    return ", ".join(every) if len(set(every)) != len(every) else ""


class RecipeModel(Frozen):
    """The base class of models of files that people edit. An unknown key is an error, because otherwise a misspelt
    limit would silently get its default. Text with digits is not accepted as a number, and numbers must be finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    not_allowed: ClassVar[NotAllowed] = ()
    """Combinations of keys that are rejected, in addition to those of the base classes."""

    @model_validator(mode="after")
    def _is_allowed(self) -> Self:
        for cls in reversed(type(self).__mro__):
            for found, message in vars(cls).get("not_allowed", ()):
                if what := found(self):
                    raise ValueError(message.format(self, what))
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_numbers_strict(schema)
        return schema


def keys_to_fill_in(model: RecipeModel) -> tuple[str, ...]:
    """Return the dotted keys whose text still contains the placeholder `FILL IN`."""
    return tuple(key for key, _ in placeholders_in(model.model_dump(mode="json")))


def placeholders_in(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each dotted key whose text contains the placeholder `FILL IN`, and the text. `key`: the value's own key."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from placeholders_in(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str) and FILL_IN in value:
        yield key, value


def read_value(text: str) -> Any:
    """Parse a value as in a recipe. A text that is not YAML, or that would be a mapping or null, is returned
    unchanged."""
    try:
        value = yaml.load(text, _RecipeLoader)
    except (yaml.YAMLError, ValueError, AttributeError):  # the last two: a value does not match its tag
        return text
    return text if isinstance(value, dict) or value is None else value


def still_to_fill_in(where: str, keys: Sequence[str], **remedy: Any) -> RecipeError:
    """Return the error for keys that still contain the placeholder."""
    say = "say" if len(keys) > 1 else "says"
    hint = "Fill in these keys of the recipe."
    return RecipeError(f"{where}: {', '.join(keys)} still {say} {FILL_IN}.", hint, **remedy)


def optional_in_schema(key: str) -> Callable[[dict[str, Any]], None]:
    """Return a function for `json_schema_extra` that makes a key optional in the JSON Schema, because a validator sets
    its default."""

    def make_optional(schema: dict[str, Any]) -> None:
        required = [each for each in schema.pop("required") if each != key]
        schema |= {"required": required} if required else {}

    return make_optional


class _RecipeLoader(yaml.SafeLoader):
    """A YAML loader that rejects repeated keys, returns dates as text, and reads `5e-4` as a number, as YAML 1.2 does.

    Because a date stays text, a key for texts accepts dates, and a key for dates can report an invalid date such as
    2024-02-30.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
        twice = [key for number, key in enumerate(keys) if key in keys[:number]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{twice[0]}' is repeated", node.start_mark)
        return yaml.SafeLoader.construct_mapping(self, node, deep)


def _unused(loader: _RecipeLoader, node: yaml.Node) -> None:
    # A set would have a different order in each process, but keys such as `classification` need a fixed order.
    raise yaml.constructor.ConstructorError(None, None, f"values of type {node.tag} are not allowed", node.start_mark)


def _whole_number(loader: _RecipeLoader, node: yaml.ScalarNode) -> int:
    """Parse a whole number. Raises ConstructorError if it is too large for JSON readers, and ValueError if it is not a
    whole number."""
    value: int = loader.construct_yaml_int(node)
    if abs(value) > LARGEST_WHOLE_NUMBER:
        raise yaml.constructor.ConstructorError(None, None, "a whole number is too large", node.start_mark)
    return value


_RecipeLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
for _tag in ("set", "omap", "pairs", "binary"):
    _RecipeLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _unused)
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same loader as `_RecipeLoader`, but based on libyaml, if PyYAML was built with libyaml. This loader is five
    times as fast, which matters with many lines of adapters."""

    yaml_implicit_resolvers = _RecipeLoader.yaml_implicit_resolvers
    yaml_constructors = _RecipeLoader.yaml_constructors
    construct_mapping = _RecipeLoader.construct_mapping


def _loaded(text: str) -> Any:
    try:
        return yaml.load(text, _FastLoader)
    except (yaml.YAMLError, ValueError, AttributeError):
        return yaml.load(text, _RecipeLoader)  # raises the error again with an excerpt, which libyaml's error lacks


Model = TypeVar("Model", bound=RecipeModel)
MOST_KEPT = 1_000
"""Maximum number of files whose models are cached in memory."""


def read_yaml(model: type[Model], path: Path, act: Act | None = None, content: bytes | None = None) -> Model:
    """Read and validate one file. If it is missing or invalid, raises RecipeError that names the file and the key, and
    suggests the nearest known key.

    Args:
        act: the act with which a user can check the corrected file; None if there is none.
        content: the file's bytes, if they were read already.
    """
    if path.is_dir():
        raise RecipeError(f"{path} is a directory.", "Give the path of a file in this directory.")
    if not path.is_file():
        raise RecipeError(f"{path}: the file does not exist.", "Create the file, or correct the path.")
    found: Model = _read(model, path, act, path.read_bytes() if content is None else content)
    return found


@lru_cache(maxsize=MOST_KEPT)
def _read(model: type[Model], path: Path, act: Act | None, content: bytes) -> Model:
    """Return the model of a file's bytes. The result is cached, because services read every recipe repeatedly."""
    try:
        given = _loaded(content.decode())
    except RecursionError:
        raise RecipeError(f"{path}: lists or mappings in the file are nested too deeply.") from None
    # A value that does not match its tag, such as `!!int x`, raises the error of the conversion.
    except (yaml.YAMLError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split()) if isinstance(error, yaml.YAMLError | UnicodeError) else "a wrong value"
        raise RecipeError(f"{path}: the file is not readable as YAML in UTF-8: {said}") from None
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: the file must contain a mapping of keys to values.")
    return validated(model, given, str(path), act=act, file=str(path))


def validated(model: type[Model], given: dict[str, Any], where: str, **remedy: Any) -> Model:
    """Validate the content of a file. If it is invalid, raises RecipeError that names the key and suggests the nearest
    known key. `where`: beginning of the message, such as the file's path. `remedy`: further arguments of the error."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        details = _without_consequences(error.errors(include_url=False))
        if all(isinstance(detail["input"], str) and FILL_IN in detail["input"] for detail in details):
            keys = [key for key, _ in placeholders_in(given)]
            raise still_to_fill_in(where, keys, **remedy) from None
        problems = "; ".join(_explain(model, given, detail) for detail in details)
        end = "" if problems.endswith("?") else "."
        missing = [detail["loc"] for detail in details if detail["type"] == "missing"]
        hint = f"Add what is missing, with your values:\n{example_of(model, missing, given)}" if missing else None
        raise RecipeError(f"{where}: {problems}{end}", hint, **remedy) from None


def example_of(model: type[RecipeModel], missing: Sequence[Sequence[Any]], content: Any = None) -> str:
    """Return YAML of the missing keys with example values, and of a missing section with all keys that it requires.

    Args:
        missing: locations of the keys, in pydantic's format: keys and numbers of list elements.
        content: the file's content, which provides the names of list elements.
    """
    example: Any = {}
    for location in missing:
        _put(example, [part for part in location if not _is_type_of_a_union(part)], _example(model, location), content)
    return yaml.safe_dump(_as_lists(example), sort_keys=False, allow_unicode=True, width=120).rstrip()


def _put(example: dict[Any, Any], location: Sequence[Any], value: Any, content: Any) -> None:
    """Set a value at a location of a nested mapping. In this mapping, the elements of a list have their numbers as
    keys."""
    for part in location[:-1]:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            content = None
        named = isinstance(part, int) and isinstance(content, dict) and isinstance(content.get("name"), str)
        example = example.setdefault(part, {"name": content["name"]} if named else {})
    example[location[-1]] = value


def _as_lists(example: Any) -> Any:
    """Convert every mapping whose keys are numbers to a list."""
    if isinstance(example, list):
        return [_as_lists(each) for each in example]
    if not isinstance(example, dict):
        return example
    if example and all(isinstance(key, int) for key in example):
        return [_as_lists(each) for _, each in sorted(example.items())]
    return {key: _as_lists(each) for key, each in example.items()}


def _example(model: type[RecipeModel], location: Sequence[Any]) -> Any:
    name = location[-1]
    fields = [each.model_fields[name] for each in _models_at(model, location[:-1]) if name in each.model_fields]
    return _example_of_field(fields[0]) if fields else FILL_IN


def _example_of_field(field: FieldInfo) -> Any:
    if field.examples:
        return field.examples[0]
    if models := models_in(field.annotation):
        required = {name: each for name, each in models[0].model_fields.items() if each.is_required()}
        section = {name: _example_of_field(each) for name, each in required.items()}
        return [section] if get_origin(field.annotation) in (tuple, list) else section
    return FILL_IN


def _without_consequences(details: Sequence[Any]) -> list[Any]:
    """Drop errors about lists that are too short only because their elements are invalid."""

    def has_wrong_elements(place: tuple[Any, ...]) -> bool:
        return any(len(each["loc"]) > len(place) and each["loc"][: len(place)] == place for each in details)

    return [each for each in details if each["type"] != "too_short" or not has_wrong_elements(each["loc"])]


def _explain(model: type[RecipeModel], content: Any, detail: Any) -> str:
    location = [part for part in detail["loc"] if not _is_type_of_a_union(part)]
    element, inside = _named_element(content, location)
    where = ".".join(str(part) for part in inside)
    if detail["type"] == "extra_forbidden":
        known = nearest_known(str(location[-1]), list(_models_at(model, location[:-1])[0].model_fields))
        return f"{element}'{where}' is not a known key; {known}"
    if detail["type"] == "missing":
        return f"{element}'{where}' is missing"
    if detail["type"] == "too_short":
        return f"{element}'{where}' must not be empty"
    said = detail["msg"].removeprefix("Value error, ")
    if said.startswith("Input should be "):
        expected = _EXPECTED.get(detail["type"], said.removeprefix("Input should be "))
        return f"{element}'{where}' must be {expected}{_given(detail['type'], detail['input'])}"
    return f"{element}'{where}': {said}" if where else f"{element}{said}"


def _named_element(content: Any, location: list[Any]) -> tuple[str, list[Any]]:
    """Split a location into its list element, as a prefix such as `source 'fees': `, and the location inside it. Return
    "" and the whole location if there is no list element with a name."""
    element, inside = "", location
    for place, part in enumerate(location):
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            break
        name = content.get("name") if isinstance(part, int) and isinstance(content, dict) else None
        if isinstance(name, str) and len(name) <= SHOWN_CHARACTERS:
            key = ".".join(str(each) for each in location[:place]).removesuffix("s")
            element, inside = f"{key} '{name}': ", location[place + 1 :]
    return element, inside


def _given(error_type: str, value: Any) -> str:
    """Return the end of a message about a wrong value: the value itself, and a hint to add or remove quotes."""
    if isinstance(value, str):
        if _needs_no_quotes(error_type, value):
            return f", and is the text '{value}': remove the quotes"
        return f", and is '{value}'" if len(value) <= SHOWN_CHARACTERS else ""
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        return ""
    return f", and is {json.dumps(value)}" + (": put it in quotes" if error_type == "string_type" else "")


def _needs_no_quotes(error_type: str, text: str) -> bool:
    try:
        value = yaml.load(text, _RecipeLoader)
    except yaml.YAMLError:
        return False
    return type(value) in _UNQUOTED.get(error_type, ())


def _is_type_of_a_union(part: Any) -> bool:
    """Return True if a part of a location is the name of a type in a union, such as `int` or `tuple[str, ...]`."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)


def nearest_known(word: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known word, or all known words."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(known)}"


def _models_at(model: type[RecipeModel], location: Sequence[Any]) -> list[type[BaseModel]]:
    """Return the models at a location, looking through lists, dicts, optionals and unions. If pydantic chose among
    several models by a tag, the tag follows the field's name in `location`."""
    current: list[type[BaseModel]] = [model]
    for part in location:
        if not isinstance(part, str):
            continue
        fields = [each.model_fields[part] for each in current if part in each.model_fields]
        if not fields:
            current = [each for each in current if part in _tags(each)] or current
            continue
        current = [nested for field in fields for nested in models_in(field.annotation)] or current
    return current


def _tags(model: type[BaseModel]) -> list[Any]:
    annotations = [field.annotation for field in model.model_fields.values()]
    return [tag for annotation in annotations if get_origin(annotation) is Literal for tag in get_args(annotation)]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in a field's type, looking through lists, dicts, optionals and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in models_in(argument)]


def json_schema(model: type[RecipeModel], title: str) -> dict[str, Any]:
    """Return the JSON Schema of a file that people edit. Editors use it to complete and check such a file."""
    schema = model.model_json_schema()
    for section in (schema, *schema.get("$defs", {}).values()):
        for described in (section, *section.get("properties", {}).values()):
            if "description" in described:
                described["description"] = " ".join(described["description"].split())
            if "$ref" in described:
                described.pop("default", None)  # an editor would insert the whole section
    return {"$schema": DIALECT, **schema, "title": title}
