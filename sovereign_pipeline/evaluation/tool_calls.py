"""Compare the tool calls that the arms make in held-out conversations with the true calls."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.base_models.tool_form import ToolForm, tool_form_of
from sovereign_pipeline.corpus.document import Document, ToolCall
from sovereign_pipeline.evaluation.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Models
from sovereign_pipeline.evaluation.held_out import held_out_turns
from sovereign_pipeline.evaluation.records import (
    DOCUMENT_FACTS,
    AnswerRow,
    ToolCallResult,
    ToolCallSample,
    ToolCallSelection,
)
from sovereign_pipeline.evaluation.statistics import case_files, share_differences
from sovereign_pipeline.policy.evaluation import ToolCalls
from sovereign_pipeline.suites.rows import rank


def score_tool_calls(
    models: Models,
    trained: Iterable[Document],
    held_out: Sequence[Document],
    instruction: str,
    settings: ToolCalls,
    batch_size: int,
    seed: int,
    replaces: bool = False,
) -> tuple[list[ToolCallSample], list[AnswerRow], ToolCallSelection | None]:
    """Let every arm generate the assistant's turns in the held-out conversations with tools, and parse the tool calls.

    Decoding is greedy. The prompt of a turn contains the true earlier turns and is built as in serving. At most
    `max_turns` turns are used, of conversations in the same order as in `score_held_out`. Turns that leave no room for
    `max_new_tokens` in the model's context are skipped and counted.

    Returns the samples, the generated answers, and the counts. If no held-out conversation has tools, there are no
    samples and no answers. If no training document has tools either, the counts are None. Raises InputError if a
    held-out conversation has tools, but the chat template does not support tools.
    """
    with_tools = [document for document in held_out if document.tools and not document.is_preference]
    selection = ToolCallSelection(
        trained=sum(bool(document.tools) for document in trained), held_out=len(with_tools), too_long=0
    )
    if not with_tools:
        return [], [], selection if selection.trained else None
    form = form_of(models.tokenizer)
    found = [
        (document, turn)
        for document in sorted(with_tools, key=lambda document: rank(seed, document.id))
        for turn in held_out_turns(models, document, instruction, replaces)
    ]
    fitting = [
        (document, turn)
        for document, turn in found
        if models.token_counts(turn.item)[0] + settings.max_new_tokens <= models.max_length
    ]
    turns = fitting[: settings.max_turns]
    prompts = [turn.item.context for _, turn in turns]
    answers = {
        arm: models.answer(prompts, arm, settings.max_new_tokens, batch_size, "turn", special_tokens=True)
        for arm in models.arms
    }
    samples, rows = [], []
    for place, (document, turn) in enumerate(turns):
        calls = {arm: form.parse(answers[arm][place].text)[1] for arm in models.arms}
        samples.append(_sample(document, turn.number, turn.message.tool_calls, calls))
        texts = {arm: answers[arm][place].text.strip() for arm in models.arms}
        rows.append(AnswerRow(id=f"{document.id}, turn {turn.number}", answers=texts))
    return samples, rows, selection.model_copy(update={"too_long": len(found) - len(fitting)})


def form_of(tokenizer: Any) -> ToolForm:
    """Return the form of tool calls in the chat template. Raises InputError if the template does not support tools."""
    form = tool_form_of(tokenizer)
    if form is None:
        raise InputError("The base model's chat template does not support tools.", "Use a base model that calls tools.")
    return form


def tool_call_result(samples: Sequence[ToolCallSample]) -> ToolCallResult:
    """Compute the results of tool calls from the samples alone. Turns of one case form a cluster."""
    due, others = ([each for each in samples if each.expected == expected] for expected in (True, False))
    return ToolCallResult(
        exact=share_differences([each.exact for each in due], case_files(due)),
        valid=share_differences([each.valid for each in due], case_files(due)),
        false_calls=share_differences([each.called for each in others], case_files(others)),
    )


def fits(call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if a call names one of the tools, and its arguments match the tool's JSON Schema. Return False if the
    schema is invalid or refers to an external document, because external documents are not retrieved."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    schemas = {each["function"]["name"]: each["function"].get("parameters") or {} for each in tools}
    if call.name not in schemas:
        return False
    try:
        return bool(Draft202012Validator(schemas[call.name], registry=Registry()).is_valid(call.arguments))
    except Exception:  # jsonschema does not document its errors: TypeError, re.error, RecursionError and its own
        return False


def _sample(
    document: Document, turn: int, true: Sequence[ToolCall], calls: Mapping[Arm, Sequence[ToolCall]]
) -> ToolCallSample:
    return ToolCallSample(
        **document.model_dump(include=DOCUMENT_FACTS),
        turn=turn,
        expected=bool(true),
        called={arm: bool(each) for arm, each in calls.items()},
        valid={arm: bool(each) and all(fits(call, document.tools) for call in each) for arm, each in calls.items()},
        exact={arm: bool(each) and _alike(each, true) for arm, each in calls.items()},
    )


def _alike(calls: Sequence[ToolCall], true: Sequence[ToolCall]) -> bool:
    """Return True if two messages contain the same tool calls, in any order."""
    one, other = ([(call.name, call.arguments) for call in sorted(each, key=_order)] for each in (calls, true))
    return one == other  # 8 equals 8.0


def _order(call: ToolCall) -> bytes:
    return canonical_json([call.name, call.arguments])
