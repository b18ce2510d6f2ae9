"""The institution's rules for serving, and a line's rollout."""

import math
from collections.abc import Collection
from ipaddress import ip_address
from typing import Annotated, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator

from sovereign_pipeline.policy.recipe_model import NotAllowed, RecipeModel


class Role(RecipeModel):
    """What callers whom the institution's proxy gives this role may use."""

    clearance: str = Field(examples=["CONFIDENTIAL"])
    """Highest classification level of the adapters that they may use."""

    lines: tuple[str, ...] | None = Field(default=None, examples=[["permits-desk"]])
    """Lines that they may use. Null: every line, as far as the clearance reaches."""

    versions: bool = False
    """Whether they may name a version, such as `permits-desk-1.0.0`, in place of a line."""

    metrics: bool = False
    """Whether they may read the gateway's metrics, which name every line."""

    admin: bool = False
    """Whether they may see, at `/admin` and on the registry's pages, how it stands with the adapters that they may
    use."""

    users: bool = False
    """Whether they speak for several people, as a front end does, and say by `user` of a request for whom. Of everybody
    else `user` is not looked at: each is one user of a rollout."""


class Limits(RecipeModel):
    """What the gateway takes on, and when it refuses."""

    body_bytes: int = Field(default=1_000_000, ge=1_000)
    """Longest body of a request."""

    tokens: int = Field(default=2048, ge=1)
    """Most tokens that one request may ask for."""

    tokens_by_default: int = Field(default=512, ge=1)
    """Tokens of an answer whose request does not say how many."""

    concurrent: int = Field(default=16, ge=1)
    """Answers that are computed at once. Each line that has nothing running keeps one place, up to half of them."""

    waiting_per_line: int = Field(default=32, ge=0)
    """Requests of one line that wait for a place; the next one gets 429."""

    waiting_seconds: float = Field(default=60, gt=0)
    """How long a request waits for a place before it gets 429."""

    concurrent_per_caller: int = Field(default=8, ge=1)
    """Requests that one caller has running or waiting; the next one gets 429."""

    requests_per_minute: float = Field(default=120, gt=0)
    """Of one caller, over time; as many may come at once."""

    tokens_per_minute: float = Field(default=60_000, gt=0)
    """Of one caller, of prompts and answers, over time; as many may come at once."""

    new_users_per_day: int = Field(default=100, ge=0)
    """Users whom one caller that speaks for several may bring into comparisons of rollouts on a day (UTC). More of them
    keep one adapter each too, and what they ask is not compared."""

    first_token_seconds: float = Field(default=60, gt=0)
    """How long the engine may take for the first token, and between two."""

    answer_seconds: float = Field(default=600, gt=0)
    """How long one answer may take."""

    drain_seconds: float = Field(default=20, gt=0)
    """How long answers that run go on after the gateway was told to end."""


Reaction = Literal["report", "replace", "stop"]
"""What is done with personal data in a text that passes: it is counted, a placeholder takes its place, or the request
or answer is stopped."""


class Screened(RecipeModel):
    """What is done with personal data in a line's requests and answers. What counts as such is what `sensitive` and the
    line's `privacy` say; a kind that is kept in documents is kept here."""

    requests: Reaction | None = None
    """`report` counts it. `replace` gives the engine placeholders, and the caller their own text back where one stands
    in the answer. `stop` refuses the request. Null: requests are not searched."""

    answers: Reaction | None = None
    """The same in answers, but for what the caller's own request says. `replace` and `stop` hold back the newest 120
    characters of a stream, so that an identifier is found whole. Null: answers are not searched."""


class Transcripts(RecipeModel):
    """What is kept of a line's answers, sealed to `transcripts_key`."""

    days: int = Field(default=30, ge=1, le=3_650)
    """After which a file is removed."""

    megabytes: int = Field(default=500, ge=1)
    """Of all files of the line; the oldest are removed. One gateway that is asked a lot keeps less than `days`."""

    preferences: bool = False
    """Whether what callers say of answers is kept with them, so that preferences for training can be made of it."""


class ServedLine(RecipeModel):
    """What is done with one line's requests and answers as they pass through the gateway."""

    privacy: Screened = Screened()
    """The search for personal data."""

    transcripts: Transcripts | None = None
    """Encrypted transcripts, as prompts for reviews. Null: none is kept."""


UNIX = "unix:"
"""Begins the address of a socket."""


def is_here(url: str) -> bool:
    """Whether an address is a socket's or a port's of this machine. Names are not looked up."""
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
    """Of an address without a name, a password, a path or a question; None for another."""
    try:
        parts = urlsplit(url)
        rest = (parts.path.strip("/"), parts.query, parts.fragment, parts.username, parts.password, parts.port == 0)
    except ValueError:
        return None
    return None if any(rest) else parts


class Local(RecipeModel):
    """How the local engine keeps things in memory."""

    adapters: int = Field(default=8, ge=1)
    """Adapters in memory at once, besides those in production."""

    cache_tokens: int = Field(default=16_384, ge=64)
    """Tokens of all prompts and answers in memory at once."""


class Vllm(RecipeModel):
    """How a vLLM server is run, or where one is reached that others run.

    The interpreter of its environment is the administrator's: SOVEREIGN_VLLM_PYTHON.
    """

    url: str | None = Field(default=None, examples=["unix:/run/vllm/api", "http://127.0.0.1:8000"])
    """A server that others start and that this gateway alone gives adapters. Null: the gateway starts one. Of the keys
    below, `precision`, `adapters`, `rank` and `context` must then say what the server was started with."""

    hosts: tuple[str, ...] = Field(default=(), examples=[["gpu1.institution.example"]])
    """Other machines that `url` may name, with https: prompts and answers leave this machine then."""

    copies: str | None = Field(default=None, examples=["/srv/vllm-adapters"])
    """A directory of the gateway's account in which the server of `url` reads adapters, by the directory's group. Null:
    one that the gateway's account alone may enter, for a server that this account runs."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """In which it computes. In float32 it must reproduce the likeliest tokens of the training side exactly, and each
    log-probability within 0.002; in bfloat16 these within 0.12 on the average, and an adapter must be 0.5 away from its
    base model."""

    adapters: int = Field(default=8, ge=1)
    """Adapters in the device's memory at once; others are read again when they are asked for. Memory for all of them is
    taken at the start."""

    rank: Literal[8, 16, 32, 64, 128, 256] = 16
    """The largest rank of an adapter that is served; each takes the memory of this one."""

    context: int | None = Field(default=None, ge=64)
    """Tokens of prompt and answer at most. Null: what the base model takes."""

    answers: int = Field(default=16, ge=1)
    """Answers that are computed at once."""

    step_tokens: int = Field(default=2048, ge=32)
    """Tokens of prompts that are computed at once. On a processor 512, else nothing is heard of it for too long."""

    cpu_cache_gib: int = Field(default=2, ge=1)
    """GiB for the prompts and answers under way, where it computes on the processor."""

    gpu_memory: float = Field(default=0.9, gt=0, lt=1)
    """The share of each GPU's memory that it takes. Of several engines on one GPU, the shares must fit together."""

    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs over which the base model is spread."""

    @field_validator("copies")
    @classmethod
    def _is_absolute(cls, copies: str | None) -> str | None:
        if copies is not None and not copies.startswith("/"):
            raise ValueError("it must begin with /")
        return copies

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: it.url is not None and not is_here(it.url) and not _is_named(it.url, it.hosts),
            "url must be unix:/PATH or http://127.0.0.1:PORT, or https://HOST:PORT with a host that 'hosts' names",
        ),
    )


class EngineChoice(RecipeModel):
    """Which engine computes, and with how much of the machine."""

    engine: Literal["local", "vllm"] = "local"
    """What computes answers: `local`, on the processor and in float32, or `vllm`."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads of the processor. Null: half of its cores. `sovereign serve --threads` wins over it."""

    local: Local = Local()
    """What the local engine keeps in memory."""

    vllm: Vllm = Vllm()
    """How vLLM is run."""

    @property
    def is_of_others(self) -> bool:
        """Whether others start what computes, so that nobody here knows who else reaches it."""
        return self.engine == "vllm" and self.vllm.url is not None


class Serving(EngineChoice):
    """What callers of the gateway may use, how much of it, and which engine computes it."""

    roles: dict[str, Role] = Field(default={}, examples=[{"desk-officers": {"clearance": "CONFIDENTIAL"}}])
    """Role, as the institution's proxy names it -> what its callers may use. A role that is not named here gives
    nothing."""

    limits: Limits = Limits()
    """What the gateway takes on, and when it refuses."""

    lines: dict[str, ServedLine] = Field(
        default={}, examples=[{"permits-desk": {"privacy": {"requests": "replace", "answers": "stop"}}}]
    )
    """Line -> what is done with its requests and answers. A gateway reads this, and the line's `privacy`, as it
    starts."""

    transcripts_key: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Fingerprint of the public key to which transcripts are sealed, as `sovereign-vault keygen` prints it; the key is
    `$SOVEREIGN_HOME/transcripts.pub`. Needed where a line has `transcripts`."""

    scanners: int = Field(default=1, ge=1, le=64)
    """Processes that search texts for personal data, where a line has them searched. Each holds the detectors: 0.5 GiB,
    and 0.3 more with a name model."""

    base_models: dict[str, EngineChoice] = Field(
        default={}, examples=[{"smollm2-135m-instruct": {"engine": "local", "threads": 2}}]
    )
    """Base model, as lines name it -> its engine, where it is another one than for the others. A gateway has one engine
    for each base model of the adapters that it serves."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: it.transcripts_key is None and any(each.transcripts is not None for each in it.lines.values()),
            "transcripts need 'transcripts_key', the fingerprint of the public key",
        ),
    )

    def searches_answers(self, line: str) -> bool:
        """Whether the answers of a line are searched for personal data."""
        return line in self.lines and self.lines[line].privacy.answers is not None

    def engine_of(self, base_model: str) -> EngineChoice:
        return self.base_models.get(base_model, self)


Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

Margin = Annotated[float, Field(gt=0, le=1)]


class Hold(RecipeModel):
    """What a staged adapter must show among the users that are drawn, and by how much it may be worse."""

    days: int = Field(default=7, ge=1, le=60)
    """Days before it is judged as good. 7: every weekday is in it."""

    users: int = Field(default=20, ge=10)
    """Users of each of both adapters before it is judged as good."""

    answers: int = Field(default=200, ge=50)
    """Answers of each of both adapters before it is judged as good."""

    lost: Margin = 0.02
    """Largest accepted rise in the share of answers that the engine begins and does not complete."""

    given_up: Margin = 0.05
    """Largest accepted rise in the share of answers that callers do not wait for."""

    empty: Margin = 0.02
    """Largest accepted rise in the share of empty answers."""

    looping: Margin = 0.05
    """Largest accepted rise in the share of answers that fall into repetition."""

    other_script: Margin = 0.05
    """Largest accepted rise in the share of answers in another script than their request, as Latin to an Arabic one."""

    slower: Margin = 0.25
    """Largest accepted rise in the time that an answer takes or is waited for, as a share of it (geometric mean)."""

    longer: Margin = 0.5
    """Largest accepted rise in the tokens of an answer, as a share of them (geometric mean)."""

    shorter: Margin = 0.5
    """Largest accepted fall in the same, counted the other way: 0.5 where the other one's are half as long again."""

    disliked: Margin = 0.02
    """Largest accepted rise in the share of answers that get the thumb down."""

    personal_data: Margin = 0.02
    """Largest accepted rise in the share of answers that hold personal data which the caller did not give. Compared
    where the line's answers are searched: `serving.lines.<line>.privacy.answers`."""

    def margin_of(self, measure: str) -> float:
        """The margin of a measure: of shares as it is, of the others as a logarithm of the ratio."""
        margin: float = getattr(self, measure)
        return math.log1p(margin) if measure in ("slower", "longer", "shorter") else margin


class Rollout(RecipeModel):
    """Who gets a line's staged adapter; everybody else gets the one in production."""

    share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the users, drawn by a hash: who once gets the staged adapter keeps it, also when the share is raised. At
    most half: more would leave too few to compare with. 0: the groups alone."""

    groups: tuple[Group, ...] = Field(default=(), examples=[["pilot-desk"]])
    """Groups, as the institution's proxy names roles, whose members all get it."""

    hold: Hold = Hold()
    """What it must show meanwhile."""
