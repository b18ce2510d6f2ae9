"""Write the grammar that an engine keeps an answer to: a JSON schema, or calls of tools in the template's form.

Grammars are Lark's, as llguidance reads them, in the local engine and in vLLM alike.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from sovereign_pipeline.serving.gateway.messages import Refusal

_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON is written as `json.dumps` and chat templates write it. With free white space, small models may never end."""
_UNENFORCED = re.compile(r"Unimplemented keys: \[(.*?)\]")
_KEYWORD = re.compile(r'"([A-Za-z$]{1,40})"')


def json_grammar(schema: Mapping[str, Any]) -> str:
    """Return the grammar of JSON by a schema."""
    return f"start: {_json(schema)}"


def assert_enforceable(grammar: str, param: str) -> None:
    """Raise Refusal for a schema with a keyword that an answer cannot be kept to. No value is quoted.

    This may take a second for a large schema. param: the request's parameter with the schema.
    """
    from llguidance import LLMatcher

    problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))
    if not problem:
        return
    keys = [key for found in _UNENFORCED.findall(problem) for key in _KEYWORD.findall(found)]
    what = f"uses {', '.join(map(repr, keys))}" if keys else "is invalid, or has a form"
    message = f"The schema in '{param}' {what}, which cannot be enforced on an answer. Change the schema."
    raise Refusal(400, message, "unsupported_parameter", param=param)


def _json(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': _AS_TRAINED})}"
