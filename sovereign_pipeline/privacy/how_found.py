"""What a line does with each kind of personal data, and how each is found: for people who set a line up.

What belongs here: facts of the recognizers' table, the recipe and the policy, in words. What does not: finding
anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.identifiers.recognizers import RECOGNIZERS, STRICT_RECOGNIZERS
from sovereign_pipeline.privacy.names.entities import LABELS

NOT_LOOKED_FOR = "not looked for"
_OF_MODELS = frozenset(kind for kind in KINDS if kind in LABELS.values() and kind != "DATE")
# What no single row of the recognizers' table finds.
_SEARCHES: dict[Kind, str] = {
    "NID": "number of digits",
    "ACCOUNT": "number of digits",
    "PHONE": "numbering plans",
    "ADDRESS": "form",
}
_REMARKS: dict[Kind, str] = {
    "CREDENTIAL": "passwords by their label, private keys, tokens, and keys of known services",
    "COORDINATES": "pairs with four digits behind the point or more, in degrees, or by their label",
    "EMAIL": "handles of social media too",
    "NID": "without a label only eight digits, or an Emirates or Kuwaiti ID by its check digit",
    "ACCOUNT": "without a label any nine digits or more that are no amount, date or file number",
    "PASSPORT": "without a label one or two letters and seven to nine digits",
    "CR": "never without a label",
    "DRIVING_LICENCE": "never without a label",
    "PLATE": "never without a label; numbers of vessels too",
    "DATE_OF_BIRTH": "never without a label; Hijri dates, months and years alone too",
    "ADDRESS": "a house and its way, and streets abroad by their words; no place alone",
    "PO_BOX": "never without a label",
}


@dataclass(frozen=True)
class KindFacts:
    """What becomes of one kind."""

    kind: Kind
    treatment: str
    """replace, keep or stop."""
    found_by: tuple[str, ...]
    """Empty for nothing: it is not looked for."""
    remark: str

    @property
    def ways(self) -> str:
        return "; ".join(self.found_by) or NOT_LOOKED_FOR


def how_found(privacy: Privacy, treatments: Treatments) -> list[KindFacts]:
    """The facts of every kind, in the order of precedence."""
    return [
        KindFacts(kind, treatments[kind], tuple(_ways(kind, privacy, treatments[kind])), _remark(kind, privacy))
        for kind in KINDS
    ]


def how_found_markdown(facts: Sequence[KindFacts]) -> str:
    """The same as a table of a page."""
    rows = [f"| {each.kind} | {each.treatment} | {each.ways} | {each.remark} |" for each in facts]
    return "\n".join(["| kind | what the line does | found by | but |", "|---|---|---|---|", *rows])


def _remark(kind: Kind, privacy: Privacy) -> str:
    if kind != "PHONE":
        return _REMARKS.get(kind, "")
    regions = privacy.phone_regions
    grouped = f", or grouped as in {', '.join(regions.grouped)}" if regions.grouped else ""
    return (
        f"without label or prefix: valid in {', '.join(regions.valid)}{grouped}; eight other digits are taken for a NID"
    )


def _ways(kind: Kind, privacy: Privacy, treatment: str) -> Iterator[str]:
    is_off = kind in KEPT_BY_DEFAULT and treatment == "keep"
    if kind == "NAME":
        for language in dict.fromkeys((*privacy.name_models, *privacy.patterns_only)):
            model = privacy.name_models.get(language)
            yield f"{language}: word lists, patterns" + (f", model {model}" if model else ", no model")
    elif kind in _OF_MODELS and not is_off:
        for language, model in privacy.name_models.items():
            yield f"{language}: model {model}"
        for language in privacy.patterns_only:
            if language not in privacy.name_models:
                yield f"{language}: nothing"
    elif not is_off:
        found = [each.by for each in (*RECOGNIZERS, *STRICT_RECOGNIZERS) if each.kind == kind]
        yield from dict.fromkeys([*found, *([_SEARCHES[kind]] if kind in _SEARCHES else [])])
    for item in privacy.recognizers:
        if item.kind == kind:
            name = item.recognizer or str((item.definition or {}).get("name", "a definition"))
            yield f"{', '.join(item.languages)}: added recognizer {name.rpartition('.')[2]}"
