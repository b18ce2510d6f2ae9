"""An engine that answers from a script, and a gateway before it: what the gateway does is seen without a model."""

import asyncio
import datetime
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI
from opentelemetry.trace import NoOpTracer, Tracer
from starlette.testclient import TestClient

from sovereign_pipeline.base.errors import EngineLost
from sovereign_pipeline.base.pages import Proxy
from sovereign_pipeline.base_models.tool_form import ToolForm
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.policy.serving import Hold, Limits, Role
from sovereign_pipeline.release.cadence import Due
from sovereign_pipeline.serving.deployable import WithdrawnAdapter
from sovereign_pipeline.serving.engines.engine import (
    Answer,
    CallForm,
    Deployable,
    EngineRequest,
    EngineState,
    Piece,
    TokenLogprob,
)
from sovereign_pipeline.serving.gateway.admin import AdminSources
from sovereign_pipeline.serving.gateway.app import Condition, create_gateway
from sovereign_pipeline.serving.gateway.auth import PREFIX, Callers, Token, TokenFile, Tokens, sha256_of
from sovereign_pipeline.serving.gateway.request_handler import Catalog, RequestHandler
from sovereign_pipeline.serving.gateway.stores import Answered, FeedbackStore, Journal, UserQuota, read_hour
from sovereign_pipeline.serving.rollout.flag import Arm, Flag, FlagAdapter
from sovereign_pipeline.serving.rollout.hold import State, judge
from sovereign_pipeline.serving.rollout.in_force import Choice
from sovereign_pipeline.serving.rollout.telemetry import Counted, Tally, Telemetry, read_reports
from sovereign_pipeline.serving.screening import NOTHING_SEARCHED, Screens
from sovereign_pipeline.serving.transcripts import NOTHING_KEPT, TranscriptFiles
from sovereign_pipeline_tests.conftest import LADDER

HERE = "http://127.0.0.1:8800"
HOSTS = frozenset({"127.0.0.1", "localhost"})
WORDS = ("The ", "lamp ", "is ", "mended", ".")
PROMPT_TOKENS = 7
LINE = "lamps"
USER = {"role": "user", "content": "Out."}
PROXY = "10.0.0.9"
SECRET = "a secret of the proxy, thirty-two characters long"


def named(user: str, roles: str) -> dict[str, str]:
    """The headers by which the institution's proxy names a caller."""
    return {"X-Remote-User": user, "X-Remote-Roles": roles, "X-Proxy-Secret": SECRET}


def ask(caller: Any, headers: Any = None, **changes: Any) -> Any:
    """The response to a chat of the line `lamps`."""
    return caller.post("/v1/chat/completions", json={"model": LINE, "messages": [USER], **changes}, headers=headers)


def adapter(line: str, version: str = "1.0.0", level: str = "INTERNAL", instruction: str | None = None) -> Deployable:
    id = f"{line}-{version}"
    digest = hashlib.sha256(id.encode()).hexdigest()
    return Deployable(id, line, digest, Path("/nowhere"), level, "0" * 64, instruction)


@dataclass
class ScriptedEngine:
    """Answers everything with the same words."""

    words: Sequence[str] = WORDS
    seconds: float = 0.0
    """Before each piece."""
    lost_after: int | None = None
    """Pieces after which the engine is lost, or ends with `lost_by`."""
    lost_by: Exception = field(default_factory=lambda: EngineLost("planted"))
    silent_after: int | None = None
    """Pieces after which nothing more comes."""
    ends_after: int | None = None
    """Pieces after which the answer just ends."""
    ends_for: Literal["stop", "length"] = "stop"
    error: Exception | None = None
    pause_after: int | None = None
    """Pieces after which it pauses for two seconds."""
    well: bool = True
    asked: list[EngineRequest] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    given_up: int = 0
    adapters: dict[str, str] = field(default_factory=dict)
    form: ToolForm | None = None
    """How its template writes calls."""

    def call_form(self, digest: str) -> CallForm | None:
        return CallForm(self.form, {}) if self.form is not None else None

    async def load(self, adapter: Deployable) -> None:
        self.adapters[adapter.digest] = adapter.adapter

    async def unload(self, digest: str) -> None:
        self.adapters.pop(digest, None)

    def loaded(self) -> Mapping[str, str]:
        return self.adapters

    async def answer(self, request: EngineRequest) -> Answer:
        if self.error is not None:
            raise self.error
        self.asked.append(request)
        return Answer(PROMPT_TOKENS, self._pieces(request.sampling.logprobs))

    async def _pieces(self, likeliest: int | None) -> AsyncGenerator[Piece, None]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        finished = False
        try:
            for number, word in enumerate(self.words):
                if number == self.lost_after:
                    raise self.lost_by
                if number == self.silent_after:
                    await asyncio.sleep(3600)
                if number == self.ends_after:
                    finished = True
                    return
                await asyncio.sleep(2 if number == self.pause_after else self.seconds)
                finished = number == len(self.words) - 1
                tokens = [] if likeliest is None else [TokenLogprob(word, -0.5, [(word, -0.5)] * likeliest)]
                yield Piece(word, 1, self.ends_for if finished else None, tokens)
        finally:
            self.running -= 1
            self.given_up += not finished

    async def is_well(self) -> bool:
        return self.well

    async def close(self) -> None:
        return None


@dataclass
class Bench:
    """A gateway with its parts within reach."""

    directory: Path
    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    served: list[Deployable] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)
    callers: Callers | None = None
    levels: tuple[str, ...] = tuple(LADDER)
    condition: Condition = field(default_factory=Condition)
    admin: dict[str, Any] = field(default_factory=dict)
    """Sources of `/admin` beside the engines."""
    on_severe_report: Callable[[], Awaitable[None]] | None = None
    other_engines: list[EngineState] = field(default_factory=list)
    tracer: Tracer = field(default_factory=NoOpTracer)
    screens: Screens = NOTHING_SEARCHED
    transcripts: TranscriptFiles = field(default_factory=lambda: NOTHING_KEPT)
    withdrawn: list[WithdrawnAdapter] = field(default_factory=list)
    gone: list[Deployable] = field(default_factory=list)
    """Adapters that the flag may give and the gateway does not serve."""

    @cached_property
    def telemetry(self) -> Telemetry:
        return Telemetry(self.directory / "rollout")

    @cached_property
    def quota(self) -> UserQuota:
        return UserQuota(self.directory / "spoken-for.db", Limits.model_validate(self.limits).new_users_per_day)

    def serve(self, adapter: Deployable, *, in_production: bool = True) -> Deployable:
        adapter = replace(adapter, pinned=in_production)
        self.served.append(adapter)
        self.engine.adapters[adapter.digest] = adapter.adapter
        return adapter

    def withdraw(self, adapter: Deployable) -> None:
        """An officer recalls an adapter."""
        self.lose(adapter)
        facts = {name: getattr(adapter, name) for name in WithdrawnAdapter.model_fields}
        self.withdrawn.append(WithdrawnAdapter(**facts))

    def lose(self, adapter: Deployable) -> None:
        """An adapter does not verify any more."""
        self.served.remove(adapter)
        self.gone.append(adapter)

    async def engines(self) -> list[EngineState]:
        well, held = await self.engine.is_well(), len(self.engine.loaded())
        return [EngineState("local", "smollm2-135m-instruct", "", well, held), *self.other_engines]

    def choose(self, line: str, user: str, groups: frozenset[str]) -> Choice | None:
        """A flag that gives everybody what is in production."""
        user = hashlib.sha256(user.encode()).hexdigest()
        for each in (*self.served, *self.gone):
            if each.line == line and each.is_in_production:
                return Choice(each.adapter, each.digest, "production", True, user, None, each.adapter, 1)
        return None

    def token(self, clearance: str = "SECRET", **changes: Any) -> str:
        """A token that is in the file; `days`: until it expires."""
        text = f"{PREFIX}{len(self.tokens):043d}"
        now = datetime.datetime.now(datetime.UTC)
        facts: dict[str, Any] = {"lines": None, "versions": False, "metrics": False, **changes}
        days = facts.pop("days", 1)
        expires_at = now + datetime.timedelta(days=days)
        facts |= {"sha256": sha256_of(text), "who": "a caller", "salt": "0" * 64, "clearance": clearance}
        token = Token(**facts, created_at=now, expires_at=expires_at)
        self.tokens.append(token)
        self.write()
        return text

    def behind_proxy(self, address: str = PROXY, **roles: Role) -> None:
        """Let a proxy at this address name callers by role."""
        proxy = Proxy(frozenset({address}), SECRET.encode())
        tokens = Tokens(self.directory / "tokens.json")
        self.callers = Callers(tokens, proxy, "X-Remote-User", "X-Remote-Roles", roles)

    def write(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "tokens.json"
        path.touch(0o600)
        path.chmod(0o600)
        path.write_text(TokenFile(tokens=tuple(self.tokens)).model_dump_json())

    @property
    def journal(self) -> Path:
        return self.directory / "answers"

    def app(self) -> FastAPI:
        tokens = Tokens(self.directory / "tokens.json")
        catalog = Catalog(
            self.engine,
            lambda: self.served,
            ClassificationLadder(self.levels),
            self.choose,
            self.quota.counts,
            lambda: self.withdrawn,
        )
        handler = RequestHandler(
            catalog,
            Limits.model_validate(self.limits),
            Journal(self.journal),
            self.telemetry,
            FeedbackStore(self.directory / "given-answers.db"),
            self.tracer,
            self.screens,
            self.transcripts,
        )
        handler.on_severe_report = self.on_severe_report
        sources = AdminSources(self.engines, **self.admin)
        return create_gateway(handler, self.callers or Callers(tokens), HOSTS, lambda: self.condition, sources)


def answered_in(file: Path) -> list[Answered]:
    """The answers of an hour's file of the journal."""
    return [each for each in read_hour(file)[0] if isinstance(each, Answered)]


def grant(clearance: str, *lines: str, versions: bool = False) -> Role:
    return Role(clearance=clearance, lines=lines or None, versions=versions)


BEGAN = 3


@dataclass
class TryingOut(Bench):
    """Users whose hash ends with an even digit get the staged adapter."""

    drawn: bool = True

    def choose(self, line: str, user: str, groups: frozenset[str]) -> Choice | None:
        production, staged = (each for each in self.served if each.line == line)
        hashed = hashlib.sha256(user.encode()).hexdigest()
        arm: Arm = "staged" if int(hashed[-1], 16) % 2 == 0 else "production"
        one = staged if arm == "staged" else production
        return Choice(one.adapter, one.digest, arm, self.drawn, hashed, staged.adapter, production.adapter, BEGAN)

    def client(self, token: str) -> TestClient:
        return TestClient(self.app(), base_url=HERE, headers={"Authorization": f"Bearer {token}"})

    def tally(self) -> Tally:
        self.telemetry.write()
        (path,) = (self.directory / "rollout" / "lamps").glob(f"lamps-1.1.0-{BEGAN:08d}/*.json")
        return Tally.model_validate_json(path.read_bytes())

    def reports(self, adapter: str = "lamps-1.1.0") -> int:
        """The number of users who reported severity 1 about an adapter."""
        self.telemetry.write()
        return len(read_reports(self.telemetry.directory, "lamps", adapter))

    def callers_of_arms(self, **rights: Any) -> dict[Arm, str]:
        """Arm -> a token whose holder gets it."""
        tokens: dict[Arm, str] = {}
        while len(tokens) < 2:
            text = self.token(**rights)
            choice = self.choose("lamps", f"token {self.tokens[-1].sha256}", frozenset())
            assert choice is not None
            tokens[choice.arm] = text
        return tokens


NOW = datetime.datetime.now(datetime.UTC)
DAYS = 3


def flag_of(production: Deployable, staged: Deployable, **changes: Any) -> Flag:
    named = {
        each.adapter: FlagAdapter(digest=each.digest, record_manifest="0" * 64, classification=each.classification)
        for each in (production, staged)
    }
    began = NOW - datetime.timedelta(days=DAYS, hours=1)
    facts: dict[str, Any] = {
        "line": production.line,
        "sequence": 4,
        "production": production.adapter,
        "staged": staged.adapter,
        "share": 0.1,
        "groups": ("pilot-desk",),
        "stopped": None,
        "began": 4,
        "began_at": began,
        "salt": "0" * 64,
        "evaluator": "planted",
        "staged_by": 2,
        "cause": "transition",
        "reason": "",
        "at": began,
        "adapters": named,
        "back": (),
    }
    return Flag(**{**facts, **changes})


def state_of(flag: Flag) -> State | None:
    """Thirty users, and twelve of them get the staged adapter."""
    one = Counted(answers=9, complete=9, log_seconds=1.0, log_tokens=30.0, rated=2)
    users = {f"{number:064x}": one for number in range(12)}
    worse = {user: one.plus(Counted(disliked=1)) for user in users}
    others = {f"{number:064x}": one for number in range(100, 118)}
    return judge(flag, Tally(drawn={"staged": worse, "production": others}, reported=("f" * 64,)), Hold(), NOW)


def try_out(bench: Bench, line: str = "lamps", *, level: str = "INTERNAL", staged_level: str = "INTERNAL") -> Flag:
    """Serve a line with a staged adapter, and `buoys`."""
    registered = NOW - datetime.timedelta(days=40)
    production = bench.serve(replace(adapter(line, level=level), registered_at=registered))
    staged = bench.serve(replace(adapter(line, "1.1.0", staged_level), registered_at=registered), in_production=False)
    bench.serve(adapter("buoys", level="SECRET"))
    flag = flag_of(production, staged)
    due = Due(line, f"{line}-1.1.0", NOW.date(), "due", (), False, True, None)
    bench.admin = {"flags": lambda: {line: flag}, "hold": state_of, "review": {line: due}.get}
    return flag
