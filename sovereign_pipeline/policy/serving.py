"""`serving` of `institution.yaml`: what callers of the gateway may use, and how much of it.

What belongs here: roles that the institution's proxy names, and limits. What does not: tokens (`serving/tokens.py`),
and which adapters there are.
"""

from pydantic import Field

from sovereign_pipeline.policy.recipe_model import RecipeModel


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
    """Whether they may see, at `/admin`, how it stands with the adapters that they may use."""


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

    first_token_seconds: float = Field(default=60, gt=0)
    """How long the engine may take for the first token, and between two."""

    answer_seconds: float = Field(default=600, gt=0)
    """How long one answer may take."""

    drain_seconds: float = Field(default=20, gt=0)
    """How long answers that run go on after the gateway was told to end."""


class Serving(RecipeModel):
    """What callers of the gateway may use, and how much of it."""

    roles: dict[str, Role] = Field(default={}, examples=[{"desk-officers": {"clearance": "CONFIDENTIAL"}}])
    """Role, as the institution's proxy names it -> what its callers may use. A role that is not named here gives
    nothing."""

    limits: Limits = Limits()
    """What the gateway takes on, and when it refuses."""
