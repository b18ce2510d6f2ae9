"""A line whose staged adapter is tried out, as `/admin` has it."""

import datetime
from dataclasses import replace
from typing import Any

from sovereign_pipeline.policy.serving import Hold
from sovereign_pipeline.release.cadence import Due
from sovereign_pipeline.serving.engines.engine import Deployable
from sovereign_pipeline.serving.gateway.admin import AdminSources
from sovereign_pipeline.serving.rollout.flag import Flag, FlagAdapter
from sovereign_pipeline.serving.rollout.hold import State, judge
from sovereign_pipeline.serving.rollout.telemetry import Counted, Tally
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter

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
    bench.admin = AdminSources(
        flags=lambda: {line: flag},
        hold=state_of,
        review={line: due}.get,
    )
    return flag
