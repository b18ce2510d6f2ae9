"""Build the state for `/admin`, and the HTML of the pages `/` and `/admin`.

An adapter above the caller's clearance is omitted. Every flag, trial and count that would reveal such an adapter is
omitted too.
"""

import datetime
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.pages import HEADERS, hash_of, style
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.release.cadence import Due, due_reviews
from sovereign_pipeline.serving.engines.engine import EngineState
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.metrics import Counts, Figures
from sovereign_pipeline.serving.gateway.request_handler import Catalog
from sovereign_pipeline.serving.rollout.flag import Flag
from sovereign_pipeline.serving.rollout.hold import State

Stage = Literal["production", "staged", "before"]
DIGITS = 12


@dataclass(frozen=True)
class AdminSources:
    """Functions that return the state that only `/admin` needs."""

    engines: Callable[[], Awaitable[Sequence[EngineState]]]
    """Function that returns one state per base model."""
    flags: Callable[[], Mapping[str, Flag]] = dict
    """Function that returns a mapping of line name to the line's flag in force."""
    behind: Callable[[], Mapping[str, str]] = dict
    """Function that returns a mapping of line name to the problem of the line's flag (`Flags.problems`)."""
    hold: Callable[[Flag], State | None] = lambda _: None
    review: Callable[[str], Due | None] = lambda _: None


class Reviews:
    """Stores the review date of each line's newest adapter. `look` updates the dates."""

    def __init__(self, settings: Settings, registry: Callable[[], Registry]) -> None:
        self._settings, self._registry = settings, registry
        self._known: dict[str, Due] = {}

    def look(self) -> None:
        """Read the review dates. If this raises an error, the dates that were read before are kept."""
        today = datetime.datetime.now(datetime.UTC).date()
        self._known = {each.line: each for each in due_reviews(self._registry(), self._settings, today)}

    def of(self, line: str) -> Due | None:
        return self._known.get(line)


class _Row(NamedTuple):
    """An adapter that is served or that a flag names."""

    stage: Stage
    adapter: str
    line: str
    digest: str
    classification: str
    registered_at: datetime.datetime | None = None


def overview(
    caller: Caller, catalog: Catalog, figures: Figures, sources: AdminSources, now: datetime.datetime
) -> dict[str, Any]:
    """Return the state of the lines and engines with an adapter that the caller may see. Answers and feedback are
    counted since this gateway started."""
    flags, behind = sources.flags(), sources.behind()
    in_engine = catalog.engine.loaded()
    loaded = {each.adapter for each in catalog.served() if each.digest in in_engine}
    lines = []
    for line in sorted({*catalog.lines(), *flags}):
        flag, due = flags.get(line), sources.review(line)
        rows = _rows(line, flag, catalog)
        seen = [each for each in rows if caller.may_oversee(each, catalog.ladder)]
        if not seen:
            continue
        sees_all = len(seen) == len(rows)
        if not sees_all:
            flag = None
        is_of_seen = due is not None and due.adapter in {each.adapter for each in seen}
        review = _facts(due, "adapter", "state") | {"on": str(due.on)} if due is not None and is_of_seen else None
        lines.append(
            {
                "line": line,
                "adapters": [_adapter(each, each.adapter in loaded, figures, now) for each in seen],
                "running": figures.running.get(line, 0) if sees_all else 0,
                "waiting": figures.waiting.get(line, 0) if sees_all else 0,
                "is_behind": line in behind,
                "rollout": _rollout(flag) if flag is not None else None,
                "review": review,
                **_trial(sources, flag),
            }
        )
    bases = {each.base_model_digest for each in catalog.served() if caller.may_oversee(each, catalog.ladder)}
    # The number of adapters is left out, because it would reveal adapters that the caller may not see.
    engines = [
        {"name": each.kind, **_facts(each, "base_model", "computes", "problem", "is_of_others")}
        for each in figures.engines
        if each.base_model_digest in bases
    ]
    return {"at": now.isoformat(timespec="seconds"), "engines": engines, "lines": lines}


def _facts(of: object, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def _rollout(flag: Flag) -> dict[str, Any]:
    facts = _facts(flag, "production", "staged", "is_rolling_out", "share", "groups", "stopped")
    return {**facts, "change": flag.sequence, "at": flag.at.isoformat(timespec="seconds")}


def _trial(sources: AdminSources, flag: Flag | None) -> dict[str, Any]:
    """Return a trial's state, and whether its counts could be read."""
    try:
        state = sources.hold(flag) if flag is not None else None
    except SovereignError:
        return {"hold": None, "is_readable": False}
    if state is None:
        return {"hold": None, "is_readable": True}
    compared = [{"measure": each.measure.name, "is_worse": each.is_worse, **each.figures()} for each in state.compared]
    facts = _facts(state, "outcome", "because", "rated", "severe")
    needed = [asdict(each) for each in state.needed]
    return {"hold": {**facts, "needed": needed, "compared": compared}, "is_readable": True}


def _rows(line: str, flag: Flag | None, catalog: Catalog) -> list[_Row]:
    """List a line's adapters that are served or that the flag names, those in production first."""
    rows: dict[str, _Row] = {}
    named: list[tuple[Stage, str | None]] = []
    if flag is not None:
        named = [("production", flag.production), ("staged", flag.staged)]
        for stage, adapter in named:
            if adapter is not None:
                facts = flag.adapters[adapter]
                rows[adapter] = _Row(stage, adapter, line, facts.digest, facts.classification)
    for each in catalog.served():
        if each.line == line:
            at: Stage = "before" if each.in_reserve else "production" if each.is_in_production else "staged"
            rows[each.adapter] = _Row(at, each.adapter, line, each.digest, each.classification, each.registered_at)
    order: list[Stage] = ["production", "staged", "before"]
    return sorted(rows.values(), key=lambda each: (order.index(each.stage), each.adapter))


def _adapter(row: _Row, is_loaded: bool, figures: Figures, now: datetime.datetime) -> dict[str, Any]:
    registered, counts = row.registered_at, figures.adapters.get(row.adapter, Counts())
    return {
        **_facts(row, "adapter", "stage", "classification"),
        "digest": row.digest[:DIGITS],
        "is_loaded": is_loaded,
        "registered": registered.date().isoformat() if registered is not None else None,
        "days": (now - registered).days if registered is not None else None,
        **_facts(counts, "complete", "lost", "cancelled"),
        "thumbs_up": counts.up,
        "thumbs_down": counts.down,
    }


HERE = Path(__file__).resolve().parent / "pages"

Name = Literal["chat", "admin"]


@cache
def page_of(name: Name) -> tuple[str, Mapping[str, str]]:
    """Build a page and its response headers. Styles, scripts and translations are inline, and the headers permit no
    external styles or scripts. The page is the same for every caller."""
    css, scripts = style(HERE / "page.css"), [_text("page.js"), _text(f"{name}.js")]
    arabic = json.dumps(json.loads(_text("arabic.json")), ensure_ascii=False).replace("<", "\\u003c")
    content = (
        _text(f"{name}.html")
        .replace("{{style}}", css)
        .replace("{{arabic}}", arabic)
        .replace("{{scripts}}", "".join(f"<script>{script}</script>\n" for script in scripts))
    )
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(map(hash_of, scripts))}",
        f"style-src {hash_of(css)}",
        "connect-src 'self'",
        "img-src data:",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return content, {**HEADERS, "Content-Security-Policy": "; ".join(policy)}


def _text(file: str) -> str:
    return (HERE / file).read_text(encoding="utf-8")
