"""Who has the pipeline's and the log's key still needs officers, each for what their key and request allow."""

import datetime
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from sovereign_pipeline.audit import verify
from sovereign_pipeline.release.transitions import ARROWS
from sovereign_pipeline.signing.keys import FileSigner, generate
from sovereign_pipeline.signing.predicates import APPROVAL, REQUEST, TRANSITION
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement

ADAPTER, RECORD, RULES, AT = "lamps-1.0.0", "a" * 64, b"rules", "2026-11-27T09:00:00+00:00"
SIGNERS = {name: generate() for name in ("pipeline", "layla", "omar", "clerk")}
POLICY = {"institution.yaml": verify.sha256(RULES)}
EVIDENCE = {"record": "b" * 64, "adapter": "c" * 64, "evaluation_report": "d" * 64, "waivers": []}
ROW = {
    "id": ADAPTER,
    "line": "lamps",
    "classification": "PUBLIC",
    "record_manifest_sha256": RECORD,
    "gate_records": [],
    **{f"{name}_digest": EVIDENCE[name] for name in ("record", "adapter", "evaluation_report")},
}


def _key(name: str) -> tuple[str, verify.Key]:
    signer: FileSigner = SIGNERS[name]
    public: Any = serialization.load_pem_public_key(signer.public_pem.encode())
    may = ("recall",) if name == "clerk" else ("*",)
    return signer.keyid, verify.Key(public, name, may, ("*",), None)


TRUST = verify.Trust(
    root_version=1,
    targets_version=1,
    expires=datetime.datetime.max,
    is_demonstration=False,
    roles={"pipeline": dict([_key("pipeline")]), "officer": dict(map(_key, ("layla", "omar", "clerk")))},
    witnesses_needed=0,
)


@dataclass
class Story:
    """A log of one line as somebody writes it who needs no proofs, and what officers really signed."""

    log: verify.Log = field(default_factory=lambda: verify.Log("log", 0, {}, {}))
    package: verify.Package = field(default_factory=lambda: verify.Package({}, {}))
    transitions: int = 0

    def __post_init__(self) -> None:
        self.package.files[f"policy/{POLICY['institution.yaml']}.yaml"] = RULES
        self._enter("policy changed", {"file": "institution.yaml", "now": POLICY["institution.yaml"]}, "")

    def _enter(self, action: str, subjects: dict[str, Any], actor: str) -> None:
        number = len(self.log.entries) + 1
        self.log.entries[number] = {"sequence": number, "action": action, "actor": actor, "subjects": subjects}

    def _sign(self, name: str, kind: str, about: str, predicate: dict[str, Any]) -> str:
        bundle = sign_statement(SIGNERS[name], Statement((Subject("file", about),), kind, predicate))
        self.package.files[f"statements/{verify.sha256(bundle)}.sigstore.json"] = bundle
        return verify.sha256(bundle)

    def ask(self, transition: str, left: str, reached: str, by: str = "layla", **more: Any) -> str:
        wanted: dict[str, Any] = {
            "line": "lamps",
            "adapter": ADAPTER,
            "transition": transition,
            "from": left,
            "to": reached,
        }
        wanted |= {"incumbent": None, "evidence": EVIDENCE, "policy": POLICY, "reason": "It is needed.", "approvals": 1}
        wanted |= {"expires": "2027-01-01T00:00:00+00:00", "classification": "PUBLIC"}
        request = self._sign(by, REQUEST, RECORD, wanted | more)
        subjects = {"line": "lamps", "adapter": ADAPTER, "request": request}
        self._enter("release requested", subjects, f"officer:{SIGNERS[by].keyid}")
        return request

    def decide(self, request: str, by: str = "omar", decision: str = "approve") -> str:
        statement = self._sign(by, APPROVAL, request, {"decision": decision, "request": request})
        subjects = {"request": request, "statement": statement}
        self._enter(verify.DECIDED[decision], subjects, f"officer:{SIGNERS[by].keyid}")
        return statement

    def make(self, request: str, transition: str, left: str, reached: str, *approvals: str) -> None:
        self.transitions += 1
        facts: dict[str, Any] = {
            "line": "lamps",
            "sequence": self.transitions,
            "adapter": ADAPTER,
            "transition": transition,
        }
        facts |= {"from": left, "to": reached, "request": request, "at": AT}
        statement = self._sign("pipeline", TRANSITION, RECORD, facts | {"approvals": list(approvals)})
        self._enter("state changed", facts | {"statement": statement}, f"pipeline:{SIGNERS['pipeline'].keyid}")

    def move(self, transition: str, left: str, reached: str, **asked: Any) -> str:
        request = self.ask(transition, left, reached, **asked)
        self.make(request, transition, left, reached, self.decide(request))
        return request

    def changes(self) -> list[str]:
        found = verify.read_changes(self.package, TRUST, self.log, {ADAPTER: ROW}, "lamps")
        return [each.after for each in found]


@pytest.fixture
def story() -> Story:
    """An adapter that was approved."""
    made = Story()
    made.move("approve", "registered", "approved")
    return made


def test_transitions_that_officers_allow_are_read(story: Story) -> None:
    story.move("stage", "approved", "staged")
    story.move("unstage", "staged", "approved")
    assert story.changes() == ["approved", "staged", "approved"]


@pytest.mark.security_case("A request that has taken effect is used for another transition", "refused")
def test_a_request_takes_effect_once(story: Story) -> None:
    request = story.move("stage", "approved", "staged")
    story.move("unstage", "staged", "approved")
    approval = next(each["subjects"]["statement"] for each in story.log.of("release approved", request=request))
    story.make(request, "stage", "approved", "staged", approval)
    with pytest.raises(verify.Refused, match="transition 4 of line lamps: its request had taken effect before"):
        story.changes()


@pytest.mark.security_case("A transition is made of a request that its requester withdrew", "refused")
@pytest.mark.parametrize("by", ["layla", "clerk"])
def test_a_request_that_was_withdrawn_takes_no_effect(story: Story, by: str) -> None:
    request = story.ask("stage", "approved", "staged", by)
    approval = story.decide(request)
    story.decide(request, by, "withdraw")
    story.make(request, "stage", "approved", "staged", approval)
    with pytest.raises(verify.Refused, match=f"{by} withdrew it before it took effect"):
        story.changes()


@pytest.mark.security_case("An officer who may not decide asks for less than no approvals", "refused")
@pytest.mark.parametrize("more", [{"approvals": -1}, {"approvals": False}, {"approvals": 0.5}, {"policy": {}}], ids=str)
def test_a_request_names_a_number_of_approvals_and_rules(story: Story, more: dict[str, Any]) -> None:
    story.make(story.ask("stage", "approved", "staged", "clerk", **more), "stage", "approved", "staged")
    with pytest.raises(verify.Refused, match="it names no number of approvals, or no rules"):
        story.changes()


@pytest.mark.security_case("An officer who may only recall asks for a recall that ends in production", "refused")
def test_a_transition_leads_where_its_name_says(story: Story) -> None:
    story.make(story.ask("recall", "approved", "production", "clerk", approvals=0), "recall", "approved", "production")
    with pytest.raises(verify.Refused, match="no 'recall' leads from approved to production"):
        story.changes()


@pytest.mark.security_case("An adapter is promoted that was never approved", "refused")
def test_an_adapter_begins_undecided() -> None:
    story = Story()
    story.move("promote", "staged", "production")
    with pytest.raises(verify.Refused, match=f"{ADAPTER} was not staged"):
        story.changes()


def test_both_sides_know_the_same_transitions() -> None:
    assert {str(each.name): ({*each.before}, str(each.after)) for each in ARROWS} == verify.ARROWS
