"""Define the institution's rules for serving, and the rollout of staged adapters."""

import math
from collections.abc import Collection
from ipaddress import ip_address
from typing import Annotated, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator

from sovereign_pipeline.policy.recipe_model import NotAllowed, RecipeModel


class FrontEnd(RecipeModel):
    """Rules for a caller that sends requests on behalf of several people."""

    user_header: str | None = Field(
        default=None, pattern=r"^[A-Za-z][A-Za-z0-9-]{0,99}$", examples=["X-OpenWebUI-User-Id"]
    )
    """Header in which the caller names the person. If a header is set, a request's `user` is ignored. Null: `user`
    names the person."""

    concurrent: int | None = Field(default=None, ge=1)
    """Maximum requests of the caller that are running or waiting. Null: `limits.concurrent_per_caller`."""

    per_minute: int | None = Field(default=None, ge=1)
    """Maximum requests per minute of the caller. The caller's tokens per minute rise in proportion. Null:
    `limits.requests_per_minute`."""

    user_concurrent: int | None = Field(default=None, ge=1)
    """Maximum requests of each person that are running or waiting. Null: `limits.concurrent_per_caller`."""

    user_per_minute: int | None = Field(default=None, ge=1)
    """Maximum requests per minute of each person. Null: `limits.requests_per_minute`."""


class Role(RecipeModel):
    """The permissions of the callers to whom the institution's proxy assigns a role."""

    clearance: str = Field(examples=["CONFIDENTIAL"])
    """Highest classification level of the adapters that these callers may use."""

    lines: tuple[str, ...] | None = Field(default=None, examples=[["permits-desk"]])
    """Lines that these callers may use. Null: every line within the clearance."""

    versions: bool = False
    """Permission to request a version, such as `permits-desk-1.0.0`, instead of a line."""

    metrics: bool = False
    """Permission to read the gateway's metrics, which contain the names of all lines."""

    admin: bool = False
    """Permission to open `/admin` and the registry's pages, which show the status of the adapters that these callers
    may use."""

    users: bool = False
    """True if these callers act for several people, as a front end does, and name the person in a request's `user`.
    Otherwise `user` is ignored, and each caller counts as one user of a rollout."""

    front_end: FrontEnd = FrontEnd()
    """Rules for callers that act for several people: the header that names a person, and the limits."""


class Limits(RecipeModel):
    """The limits of the gateway. Requests beyond a limit are rejected."""

    body_bytes: int = Field(default=1_000_000, ge=1_000)
    """Maximum size of a request's body, in bytes."""

    tokens: int = Field(default=2048, ge=1)
    """Maximum number of answer tokens that a request may ask for."""

    tokens_by_default: int = Field(default=512, ge=1)
    """Maximum number of tokens of an answer if the request does not set a maximum."""

    choices: int = Field(default=4, ge=1)
    """Maximum number of answers (`n`) of one request. For the other limits, each answer counts as a request."""

    concurrent: int = Field(default=16, ge=1)
    """Maximum number of answers that are computed at once. One of these slots is reserved for each line that has no
    running answer, up to half of the slots."""

    waiting_per_line: int = Field(default=32, ge=0)
    """Maximum number of requests of one line that wait for a slot. Further requests are rejected with status 429."""

    waiting_seconds: float = Field(default=60, gt=0)
    """Maximum time, in seconds, that a request waits for a slot. After this time, the request is rejected with status
    429."""

    concurrent_per_caller: int = Field(default=8, ge=1)
    """Maximum number of requests of one caller that are running or waiting. Further requests are rejected with status
    429."""

    requests_per_minute: float = Field(default=120, gt=0)
    """Maximum average number of requests per minute of one caller. This is also the maximum size of a burst."""

    tokens_per_minute: float = Field(default=60_000, gt=0)
    """Maximum average number of tokens, in prompts and answers, per minute of one caller. This is also the maximum size
    of a burst."""

    new_users_per_day: int = Field(default=100, ge=0)
    """Maximum number of users per day (UTC) that a caller with several people may add to the comparisons of rollouts. A
    further user also gets the same adapter every time, but the user's answers are not compared."""

    first_token_seconds: float = Field(default=60, gt=0)
    """Maximum time until the engine's first token, in seconds. Long prompts need the most time."""

    pause_seconds: float = Field(default=60, gt=0)
    """Maximum time, in seconds, between two tokens of an answer, and until the caller has read the data that was
    sent."""

    answer_seconds: float = Field(default=600, gt=0)
    """Maximum time for one answer, in seconds."""

    drain_seconds: float = Field(default=20, gt=0)
    """Maximum time, in seconds, that running answers continue after the gateway was asked to stop."""


Reaction = Literal["report", "replace", "stop"]
"""Treatment of personal data in a request or answer: count the data, replace the data by a placeholder, or stop the
request or answer."""


class Screened(RecipeModel):
    """How personal data in a line's requests and answers is treated. The institution's `sensitive` and the line's
    `privacy` define the kinds of personal data. A kind that is kept in documents is also kept in requests and
    answers."""

    requests: Reaction | None = None
    """Treatment of personal data in requests. `report` counts it. `replace` sends placeholders to the engine, and
    restores the caller's own text where a placeholder occurs in the answer. `stop` rejects the request. Null: requests
    are not searched."""

    answers: Reaction | None = None
    """Treatment of personal data in answers. Data that the caller's own request contains is ignored. `replace` and
    `stop` buffer the newest 120 characters of a stream, so that an identifier that is split across chunks is also
    found. Null: answers are not searched."""


class Transcripts(RecipeModel):
    """How a line's requests and answers are stored, encrypted with the public key of `transcripts_key`."""

    days: int = Field(default=30, ge=1, le=3_650)
    """Number of days after which a transcript file is removed."""

    megabytes: int = Field(default=500, ge=1)
    """Maximum total size of the line's transcript files, in megabytes. The oldest files are removed first, on a busy
    gateway possibly before `days` have passed."""

    preferences: bool = False
    """Store callers' feedback with the answers, so that training preferences can be built from rated answers."""


class ServedLine(RecipeModel):
    """How the gateway treats one line's requests and answers."""

    privacy: Screened = Screened()
    """Treatment of personal data in requests and answers."""

    system: Literal["append", "replace"] = "append"
    """Use of a caller's system message: it is appended to the line's instruction, or replaces the instruction."""

    transcripts: Transcripts | None = None
    """Encrypted transcripts, which can become prompts of reviews. Null: none are stored."""


UNIX = "unix:"
"""Prefix of a socket's address."""


def is_here(url: str) -> bool:
    """Return True if an address is a socket or a loopback port of this machine. Host names are not resolved."""
    if url.startswith(UNIX):
        return url.startswith(f"{UNIX}/")
    parts = _parts(url)
    if parts is None or parts.scheme != "http" or not parts.port:
        return False
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _is_named(url: str, hosts: Collection[str]) -> bool:
    parts = _parts(url)
    return parts is not None and parts.scheme == "https" and parts.hostname in hosts


def _parts(url: str) -> SplitResult | None:
    """Parse a URL. Returns None if the URL is invalid, or has a user name, password, path, query or fragment."""
    try:
        parts = urlsplit(url)
        rest = (parts.path.strip("/"), parts.query, parts.fragment, parts.username, parts.password, parts.port == 0)
    except ValueError:
        return None
    return None if any(rest) else parts


class Local(RecipeModel):
    """The memory limit of the local engine."""

    cache_tokens: int = Field(default=16_384, ge=64)
    """Maximum number of tokens of prompts and answers in memory at once. A quarter more tokens is kept in memory to
    cache common prefixes of prompts."""


class Vllm(RecipeModel):
    """How a vLLM server is started, or the address of a server that is already running. The administrator sets the
    Python interpreter of vLLM's environment in SOVEREIGN_VLLM_PYTHON."""

    url: str | None = Field(default=None, examples=["unix:/run/vllm/api", "http://127.0.0.1:8000"])
    """Address of a server that is started separately. Only this gateway may load adapters into it. The keys
    `precision`, `adapters`, `rank` and `context` must then match the server's options. Null: the gateway starts a
    server."""

    hosts: tuple[str, ...] = Field(default=(), examples=[["gpu1.institution.example"]])
    """Names of other machines that `url` may contain, with https. Prompts and answers then leave this machine."""

    copies: str | None = Field(default=None, examples=["/srv/vllm-adapters"])
    """Directory through which the server at `url` gets adapters. The gateway's account owns the directory, and the
    server's account reads it as a member of the directory's group. Null: a directory that only the gateway's account
    can enter, so the server must run under this account."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format in which the server computes. In float32, the server must reproduce the trainer's most likely
    tokens exactly, and each log-probability within 0.002. In bfloat16 the log-probabilities must agree within 0.12 on
    average, and must differ by at least 0.5 between an adapter and its base model."""

    adapters: int = Field(default=8, ge=1)
    """Maximum number of adapters in the device's memory. A further adapter that is requested replaces one of them.
    Memory for this number is reserved at the start."""

    rank: Literal[8, 16, 32, 64, 128, 256] = 16
    """Largest rank of a served adapter. Every adapter takes as much memory as an adapter of this rank."""

    context: int | None = Field(default=None, ge=64)
    """Maximum number of tokens of prompt and answer. Null: the base model's maximum."""

    answers: int = Field(default=16, ge=1)
    """Maximum number of answers that are computed at once."""

    step_tokens: int = Field(default=2048, ge=32)
    """Maximum number of prompt tokens that are computed in one step. Use 512 on a CPU, where a longer step would delay
    all other requests too long."""

    cpu_cache_gib: int = Field(default=2, ge=1)
    """Memory in GiB for the KV cache, if vLLM computes on a CPU."""

    gpu_memory: float = Field(default=0.9, gt=0, lt=1)
    """Share of each GPU's memory that the engine takes. The shares of several engines on one GPU must add up to at most
    1."""

    tensor_parallel: int = Field(default=1, ge=1)
    """Number of GPUs over which the base model is distributed."""

    @field_validator("copies")
    @classmethod
    def _is_absolute(cls, copies: str | None) -> str | None:
        if copies is not None and not copies.startswith("/"):
            raise ValueError("the path must begin with /")
        return copies

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: it.url is not None and not is_here(it.url) and not _is_named(it.url, it.hosts),
            "url must be unix:/PATH or http://127.0.0.1:PORT, or https://HOST:PORT with a host listed in 'hosts'",
        ),
    )


class EngineChoice(RecipeModel):
    """The engine that computes answers, and the resources that it may use."""

    engine: Literal["local", "vllm"] = "local"
    """Engine that computes answers: `local`, on the CPU in float32, or `vllm`."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Number of CPU threads. Null: half of the cores. `sovereign serve --threads` overrides this number."""

    local: Local = Local()
    """Memory limit of the local engine."""

    vllm: Vllm = Vllm()
    """Settings of vLLM."""

    @property
    def is_of_others(self) -> bool:
        """True if the engine is started separately, so that this program cannot know who else has access to it."""
        return self.engine == "vllm" and self.vllm.url is not None


class Serving(EngineChoice):
    """The permissions of the gateway's callers, the gateway's limits, and the engine that computes answers."""

    roles: dict[str, Role] = Field(default={}, examples=[{"desk-officers": {"clearance": "CONFIDENTIAL"}}])
    """Maps a role, by its name in the institution's proxy, to the permissions of its callers. A role that is not listed
    gives no permissions."""

    limits: Limits = Limits()
    """Limits of the gateway. Requests beyond a limit are rejected."""

    lines: dict[str, ServedLine] = Field(
        default={}, examples=[{"permits-desk": {"privacy": {"requests": "replace", "answers": "stop"}}}]
    )
    """Maps a line to the treatment of its requests and answers. A gateway reads these rules, and the line's `privacy`,
    only when it starts."""

    transcripts_key: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Fingerprint of the public key that encrypts transcripts, as printed by `sovereign-vault keygen`. The key itself
    is in `$SOVEREIGN_HOME/transcripts.pub`. Required if a line has `transcripts`."""

    scanners: int = Field(default=1, ge=1, le=64)
    """Number of processes that search texts for personal data, if a line requires it. Each process loads the detectors:
    0.5 GiB, and 0.3 GiB more with a name model."""

    base_models: dict[str, EngineChoice] = Field(
        default={}, examples=[{"smollm2-135m-instruct": {"engine": "local", "threads": 2}}]
    )
    """Maps a base model, by its name in recipes, to an engine other than the engine of this section. A gateway runs one
    engine for each base model of the adapters that it serves."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: it.transcripts_key is None and any(each.transcripts is not None for each in it.lines.values()),
            "transcripts need 'transcripts_key', the fingerprint of the public key",
        ),
    )

    def makes_preferences(self, line: str) -> bool:
        """Return True if preferences may be built from a line's rated answers."""
        transcripts = self.lines[line].transcripts if line in self.lines else None
        return transcripts is not None and transcripts.preferences

    def searches_answers(self, line: str) -> bool:
        """Return True if a line's answers are searched for personal data."""
        return line in self.lines and self.lines[line].privacy.answers is not None

    def engine_of(self, base_model: str) -> EngineChoice:
        return self.base_models.get(base_model, self)


Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

Margin = Annotated[float, Field(gt=0, le=1)]


class Hold(RecipeModel):
    """The trial of a staged adapter among users: the minimum amount of use, and the margins by which the staged adapter
    may be worse than the adapter in production."""

    days: int = Field(default=7, ge=1, le=60)
    """Minimum number of days before the adapter can pass. 7 days include every weekday."""

    users: int = Field(default=20, ge=10)
    """Minimum number of users of each of the two adapters before the adapter can pass."""

    answers: int = Field(default=200, ge=50)
    """Minimum number of answers of each of the two adapters before the adapter can pass."""

    lost: Margin = 0.02
    """Largest accepted rise in the share of answers that the engine begins but does not complete."""

    given_up: Margin = 0.05
    """Largest accepted rise in the share of answers that callers abort."""

    empty: Margin = 0.02
    """Largest accepted rise in the share of empty answers."""

    looping: Margin = 0.05
    """Largest accepted rise in the share of answers that fall into repetition."""

    other_script: Margin = 0.05
    """Largest accepted rise in the share of answers whose script differs from the request's, such as Latin for
    Arabic."""

    slower: Margin = 0.25
    """Largest accepted relative rise in the time that an answer takes, or that a caller waits before aborting
    (geometric mean). 0.25 is 25 % more."""

    longer: Margin = 0.5
    """Largest accepted relative rise in the number of tokens of an answer (geometric mean). 0.5 is 50 % more."""

    shorter: Margin = 0.5
    """Largest accepted fall in the number of tokens of an answer (geometric mean). At 0.5, the production adapter's
    answers may be 50 % longer than the staged adapter's."""

    disliked: Margin = 0.02
    """Largest accepted rise in the share of answers with negative feedback."""

    personal_data: Margin = 0.02
    """Largest accepted rise in the share of answers with personal data that the caller did not send. This share is
    measured only if `serving.lines.<line>.privacy.answers` is set."""

    def margin_of(self, measure: str) -> float:
        """Return the margin of a measure. The margin of a time or a length is converted to the logarithm of a ratio."""
        margin: float = getattr(self, measure)
        return math.log1p(margin) if measure in ("slower", "longer", "shorter") else margin


class Rollout(RecipeModel):
    """The users whom a line's staged adapter answers. The adapter in production answers all other users."""

    share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the users who get the staged adapter, selected by a hash. If the share is raised, the users selected
    before still get the adapter. The share is at most half, so that enough users remain for the comparison. 0: only
    members of `groups` get the adapter."""

    groups: tuple[Group, ...] = Field(default=(), examples=[["pilot-desk"]])
    """Groups (roles of the institution's proxy) whose members all get the staged adapter."""

    hold: Hold = Hold()
    """Trial that the staged adapter must pass before it is promoted."""
