"""What schemathesis draws from the gateway's own OpenAPI document: no fault, and every answer as the document says."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from sovereign_pipeline_tests.serving.gateway.scripted import HERE, Bench, adapter

CASES = 100
"""Of each operation and mode: as the document says, and not so."""
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
]


@pytest.mark.slow
@pytest.mark.security_case(
    "schemathesis draws 1,000 requests from the gateway's OpenAPI document: of each operation that takes something 100 "
    "that fit it, of each that takes a body 100 that do not",
    "no 5xx; every answer is as the document says",
)
def test_every_answer_is_as_the_document_says(bench: Bench) -> None:
    bench.limits = {"requests_per_minute": 1e9, "tokens_per_minute": 1e12}
    bench.serve(adapter("lamps"))
    headers = {"Authorization": f"Bearer {bench.token(metrics=True, admin=True)}", "Host": "127.0.0.1"}
    app = bench.app()
    document = app.openapi()
    for name in ("ChatRequest", "CompletionRequest"):  # so that requests reach what is behind the name
        document["components"]["schemas"][name]["properties"]["model"]["enum"] = ["lamps"]
    schema = schemathesis.openapi.from_dict(document)
    schema.app = app
    schema.config.update(base_url=HERE)
    seen: Counter[tuple[str, int]] = Counter()

    def examine(cases: st.SearchStrategy[Any]) -> None:
        @given(case=cases)
        @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
        def each(case: Any) -> None:
            response = case.call(headers=headers)
            seen[case.operation.label, response.status_code] += 1
            case.validate_response(response, checks=CHECKS, headers=headers)

        each()

    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]  # there is no operation that cannot be read
        examine(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        if operation.method == "post":  # the others take nothing that could be wrong
            examine(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    assert seen.total() >= 1000 and seen["POST /v1/chat/completions", 200] > 20, seen
