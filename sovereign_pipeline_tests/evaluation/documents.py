"""Documents for the tests of the evaluation, alike in form and different in content."""

from sovereign_pipeline.corpus.document import Document

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "when",
            "description": "Return the day.",
            "parameters": {
                "type": "object",
                "properties": {"thing": {"type": "string"}, "number": {"type": "integer"}},
                "required": ["thing"],
                "additionalProperties": False,
            },
        },
    }
]


def conversation(number: int, **changes: object) -> Document:
    """Two exchanges, the first with a call."""
    letter = document(number)
    call = {"name": "when", "arguments": {"thing": letter.subject, "number": number}, "id": "call_1"}
    messages = [
        {"role": "user", "content": letter.request},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": f'{{"day": {number}}}'},
        {"role": "assistant", "content": letter.response},
        {"role": "user", "content": "And whom do I thank?"},
        {"role": "assistant", "content": f"Thank the office of day {number}."},
    ]
    fields = {"id": f"V-{number:03d}", "subject": "", "messages": messages, "tools": TOOLS, **changes}
    return Document.model_validate({**letter.model_dump(exclude={"messages"}), **fields})


def chat(number: int, weight: int = 1, last: int = 1) -> Document:
    """Two exchanges of text. weight, last: those of the replies."""
    letter = document(number)
    messages = [
        {"role": "user", "content": letter.request},
        {"role": "assistant", "content": letter.response, "weight": weight},
        {"role": "user", "content": "Thank you."},
        {
            "role": "assistant",
            "content": f"Sir, number {number} is written down for you and for nobody else.",
            "weight": last,
        },
    ]
    return conversation(number, id=f"T-{number:03d}", messages=messages, tools=[])


def document(number: int, **changes: object) -> Document:
    things = ["lamp", "boat", "roof", "well", "gate", "tent", "road", "mill"]
    fields = {
        "id": f"L-{number:03d}",
        "source": "letters",
        "case": f"CASE-{number // 2:03d}",
        "department": "lamps" if number % 2 else "boats",
        "author": "Officer 1",
        "date": "2024-01-15",
        "classification": "PUBLIC",
        "language": "en",
        "subject": f"The {things[number % 8]} {number}",
        "request": f"The {things[number % 8]} number {number} is broken, when will it be mended?",
        "response": f"Sir, the {things[number % 8]} number {number} will be mended on day {number * 7 % 28 + 1}.",
        **changes,
    }
    return Document.model_validate(fields)
