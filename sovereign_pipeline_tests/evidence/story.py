"""A line's log as somebody writes it who has the pipeline's and the log's key, and what officers really signed."""

import datetime
import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from sovereign_pipeline.evidence import verify
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.statements import APPROVAL, FLAG, REQUEST, TRANSITION, Statement, Subject, sign_statement
from sovereign_pipeline.serving.rollout.flag import Change, Flag, document
from sovereign_pipeline.serving.rollout.publishing import told_of

ADAPTER, OTHER, RECORD, RULES = "lamps-1.0.0", "lamps-1.1.0", "a" * 64, b"rules"
NAMED = {"digest": "c" * 64, "record_manifest": RECORD, "classification": "PUBLIC"}
AT = "2026-11-27T09:00:00+00:00"
SIGNERS = {name: generate() for name in ("pipeline", "layla", "omar", "clerk")}
"""Layla and Omar may everything; the clerk may recall."""
POLICY = {"institution.yaml": verify.sha256(RULES)}
EVIDENCE = {"record": "b" * 64, "adapter": "c" * 64, "evaluation_report": "d" * 64, "waivers": [], "gates": 0}
ROW = {
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
    is_demonstration=False,
    roles={"pipeline": dict([_key("pipeline")]), "officer": dict(map(_key, ("layla", "omar", "clerk")))},
    witnesses_needed=0,
)


class Story:
    """Entries of a log that needs no proofs, and the statements that they name; two adapters with the same evidence."""

    def __init__(self) -> None:
        self.package = verify.Package({f"policy/{POLICY['institution.yaml']}.yaml": RULES})
        self.package.trust, self.package.log, self.package.artifacts = TRUST, {}, {}
        self.package.rows = {each: {"id": each, **ROW} for each in (ADAPTER, OTHER)}
        self.package.index = {"made_at": moment(30)}
        self.transitions, self.flags, self.at = 0, 0, AT
        self.enter("policy changed", {"file": "institution.yaml", "now": POLICY["institution.yaml"]}, "")

    def enter(self, action: str, subjects: dict[str, Any], actor: str) -> dict[str, Any]:
        number = len(self.package.log) + 1
        entry = {"sequence": number, "action": action, "actor": actor, "at": self.at, "subjects": subjects}
        self.package.log[number] = entry
        return entry

    def sign(self, by: str, kind: str, about: str, predicate: dict[str, Any]) -> bytes:
        return sign_statement(SIGNERS[by], Statement((Subject("file", about),), kind, predicate))

    def keep(self, bundle: bytes) -> str:
        """Put it into the package. Returns its SHA-256."""
        self.package.files[f"statements/{verify.sha256(bundle)}.sigstore.json"] = bundle
        return verify.sha256(bundle)

    def act(self, by: str, action: str, kind: str, about: str, said: dict[str, Any], **told: Any) -> str:
        """An entry that says what was signed, but where it is `told` otherwise. Returns the statement's SHA-256."""
        signed = self.keep(self.sign(by, kind, about, said))
        role = "pipeline" if by == "pipeline" else "officer"
        self.enter(action, said | told | {"statement": signed}, f"{role}:{SIGNERS[by].keyid}")
        return signed

    def ask(self, transition: str, left: str, reached: str, by: str = "layla", **more: Any) -> str:
        wanted: dict[str, Any] = {"line": "lamps", "adapter": ADAPTER, "transition": transition}
        wanted |= {"from": left, "to": reached, "incumbent": None, "evidence": EVIDENCE, "policy": POLICY}
        wanted |= {"reason": "It is needed.", "approvals": 1, "expires": "2027-01-01T00:00:00+00:00"}
        wanted |= {"classification": "PUBLIC"} | more
        request = self.keep(self.sign(by, REQUEST, RECORD, wanted))
        subjects = {"line": "lamps", "adapter": wanted["adapter"], "request": request}
        self.enter("release requested", subjects, f"officer:{SIGNERS[by].keyid}")
        return request

    def decide(self, request: str, by: str = "omar", decision: str = "approve") -> str:
        said = {"decision": decision, "request": request}
        return self.act(by, verify.DECIDED[decision], APPROVAL, request, said)

    def make(self, request: str, transition: str, left: str, reached: str, *approvals: str, **more: Any) -> None:
        self.transitions += 1
        facts: dict[str, Any] = {"line": "lamps", "sequence": self.transitions, "adapter": ADAPTER}
        facts |= {"transition": transition, "from": left, "to": reached, "request": request, "at": self.at}
        self.act("pipeline", "state changed", TRANSITION, RECORD, facts | {"approvals": list(approvals)} | more)

    def move(self, transition: str, left: str, reached: str, adapter: str = ADAPTER, **asked: Any) -> str:
        request = self.ask(transition, left, reached, adapter=adapter, **asked)
        self.make(request, transition, left, reached, self.decide(request), adapter=adapter)
        return request

    def flag(
        self,
        production: str | None,
        staged: str | None = None,
        *,
        file: dict[str, Any] | None = None,
        told: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """A change of the line's flag. file, told: what the file and the entry say otherwise."""
        self.flags += 1
        facts: dict[str, Any] = {"line": "lamps", "sequence": self.flags, "production": production, "staged": staged}
        facts |= {"share": 0.25 if staged else 0.0, "groups": [], "stopped": None, "began": 1, "began_at": self.at}
        facts |= {"salt": "5" * 64, "evaluator": "flagd 1", "staged_by": None, "cause": "transition", "reason": "So."}
        facts |= {"at": self.at, "adapters": {each: NAMED for each in (ADAPTER, OTHER)}, "back": []}
        signed = Flag.model_validate_json(json.dumps(facts | more))
        said, change = signed.model_dump(mode="json"), Change(signed.sequence, document(signed), b"", None)
        content = change.flags if file is None else json.dumps(json.loads(change.flags) | file).encode()
        self.package.files[f"flags/lamps/{signed.sequence}.json"] = content
        statement = self.keep(self.sign("pipeline", FLAG, verify.sha256(content), said))
        subjects = told_of(change, signed) | {"statement": statement} | (told or {})
        self.enter("flag changed", subjects, f"pipeline:{SIGNERS['pipeline'].keyid}")

    def answered(self, on: str) -> list[str]:
        """What answered the line, as the verifier says it."""
        self.package.acts = verify.read_acts(self.package)
        changes = verify.read_changes(self.package, "lamps")
        flags = verify.read_flags(self.package, "lamps", changes)
        steps = verify.answering(changes, flags, verify.read_recalls(self.package))
        return [*verify.answers(self.package, steps, on)]

    def changes(self) -> list[str]:
        """The states that the line's adapters came to, as the verifier reads them."""
        self.package.acts = verify.read_acts(self.package)
        return [each["to"] for each in verify.read_changes(self.package, "lamps")]

    def told(self, title: str) -> list[str]:
        """What the verifier notes of holds and acts."""
        self.package.acts = verify.read_acts(self.package)
        verify.tell_acts(self.package, ["lamps"])
        return self.package.words[title]


class Review:
    """A blind review of the line in a story: its plan, and a chain of acts that its own key signed."""

    NAME = "review-1"

    def __init__(self, story: Story, ballots: int) -> None:
        """ballots: how many close it."""
        self.story, self._key, self.seed = story, ed25519.Ed25519PrivateKey.generate(), bytes(32)
        self._acts, self._before = 0, "0" * 64
        plan = {"line": "lamps", "act_key": self._key.public_key().public_bytes_raw().hex(), "ballots": ballots}
        plan["seed_sha256"] = verify.sha256(self.seed)
        manifest = {"classification": "PUBLIC", "kind": "review_plan", "inputs": {}, "external_inputs": {}}
        self.plan = verify.Artifact("e" * 64, manifest, "f" * 64, 0)
        story.package.artifacts[self.plan.digest] = self.plan
        story.package.files[f"{self.plan.folder}/plan.json"] = verify.canonical(plan)
        self.act("review opened", plan=self.plan.digest)

    def act(self, action: str, **said: Any) -> None:
        self._acts += 1
        subjects = {"review": self.NAME, "act": self._acts, "act_before": self._before, **said}
        act = {"action": action, "actor": "clerk", "at": AT, "subjects": subjects}
        content = b"sovereign audit entry 1\n" + verify.canonical(act)
        self._before = verify.sha256(content)
        self.story.enter(action, {**subjects, "signature": self._key.sign(content).hex()}, "clerk")

    def close(self, ballots: int, action: str = "review closed", **more: Any) -> None:
        for _ in range(ballots):
            self.act("ballot given")
        self.act(action, seed=self.seed.hex(), ballots=ballots, ballots_sha256="9" * 64, **more)

    def words(self) -> Iterator[str]:
        verify.check_reviews(self.story.package)
        yield from self.story.package.words["Blind reviews"]


def moment(day: int) -> str:
    """A day of November 2026, at nine."""
    return datetime.datetime(2026, 11, day, 9, tzinfo=datetime.UTC).isoformat()
