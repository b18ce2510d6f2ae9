"""Documents for the tests of the evaluation, alike in form and different in content."""

from sovereign_pipeline.corpus.document import Document


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
