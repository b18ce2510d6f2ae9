"""Roll back a line immediately, by an officer or by the pipeline, even while the registry is down.

The flag contains a prepared request, which the officer signs. The transition is logged once the registry is up again.
"""

import datetime
import hashlib
from typing import Any

from sovereign_pipeline.base.errors import ConflictError, InputError, NotFoundError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import assert_may, officer_of, on_one_line, pipeline_signer, trust_root
from sovereign_pipeline.record.statements import REQUEST, Statement, Subject, sign_statement
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.serving.rollout.flag import (
    Flag,
    WayBack,
    changing,
    current_flag,
    installed_evaluator,
    write_change,
)


def way_back(settings: Settings, line: str, to: str | None, trust: Trust) -> tuple[Flag, WayBack]:
    """Return a line's flag, and its prepared rollback to the adapter `to`. Raises NotFoundError if there is no flag or
    no such rollback, and IntegrityError if the newest flag fails verification.

    The rollback unstages the staged adapter if `to` is the present adapter in production, or if `to` is None and the
    staged adapter answers users. Otherwise, None stands for the previous adapter in production.
    """
    flag = current_flag(settings, line, trust)
    unstages = flag.is_rolling_out if to is None else flag.staged is not None and to == flag.production
    before = [each for each in flag.back if each.adapter not in (flag.staged, flag.production)]
    if unstages:
        ways = [each for each in flag.back if each.adapter == flag.staged]
    else:
        ways = [each for each in before if to in (None, each.adapter)]
    if ways:
        return flag, ways[0]
    if to is None:
        raise NotFoundError(f"Line {line} has no adapter to roll back to.", "No adapter was in production before.")
    raise NotFoundError(
        f"{to} is not an adapter to which line {line} can roll back at once.",
        f"Adapters that are possible at once: {', '.join(each.adapter for each in before) or 'none'}. For any other "
        "adapter that was in production, request the transition `roll_back`. The gateway then loads the adapter first.",
    )


def rollback(
    settings: Settings, line: str, to: str | None, officer_key: Signer, reason: str, shown: WayBack | None = None
) -> Flag:
    """Roll back immediately, with an officer's signature. Returns the new flag.

    Args:
        to: adapter to return to; None as in `way_back`.
        shown: the rollback that the officer confirmed, if it was shown.

    Raises InputError if there is no reason, SignInError if the officer may not roll back, ConflictError if other
    officers must approve or if the rollback is no longer the one that was shown, and the errors of `way_back`.
    """
    if not reason.strip():
        raise InputError("A rollback needs a reason.", "Give a reason. Every page about the adapter shows this reason.")
    trust = trust_root(settings)
    officer, signer = officer_of(trust, officer_key.keyid), pipeline_signer(settings, trust)
    institution = load_institution(settings.data)
    with changing(settings, line):
        flag, way = way_back(settings, line, to, trust)
        if shown not in (None, way):
            raise ConflictError(f"Line {line} changed after the rollback was shown.", "Repeat the command.")
        asked, named = way.request, flag.adapters[way.adapter]
        assert_may(officer, asked["transition"], [named.classification])
        _assert_needs_nobody_else(institution, asked)
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=institution.release.request_days)
        predicate = {**asked, "reason": on_one_line(reason), "expires": ends.replace(microsecond=0).isoformat()}
        subject = Subject("registered_adapter/manifest.json", named.record_manifest)
        request = sign_statement(officer_key, Statement((subject,), REQUEST, predicate))
        following = _after(flag, way, on_one_line(reason), hashlib.sha256(request).hexdigest())
        write_change(settings, signer, following, request)
    return following


def stop(settings: Settings, line: str, staged: str, reason: str) -> Flag | None:
    """Stop a harmful rollout, so that everyone gets the adapter in production. Returns the new flag, or None if the
    adapter `staged` no longer answers any user."""
    trust = trust_root(settings)
    signer = pipeline_signer(settings, trust)
    with changing(settings, line):
        flag = current_flag(settings, line, trust)
        if flag.staged != staged or not flag.is_rolling_out:
            return None
        following = _next(flag, cause="regression", reason=reason, stopped=reason)
        write_change(settings, signer, following)
    return following


def _after(flag: Flag, way: WayBack, reason: str, request: str) -> Flag:
    """Return the flag after a rollback. The flag's prepared rollbacks are dropped, because they were prepared for the
    state before this rollback."""
    told: dict[str, Any] = {"cause": "rollback", "reason": reason, "request": request, "back": ()}
    if way.request["transition"] == "unstage":
        kept = {flag.production} - {None}
        told |= {"staged": None, "staged_by": None, "share": 0.0, "groups": (), "stopped": None}
    else:
        kept = {way.adapter, flag.staged, flag.production} - {None}
        told |= {"production": way.adapter, "stopped": f"{flag.production} was rolled back."}
    kept |= {way.adapter}
    told["adapters"] = {name: named for name, named in flag.adapters.items() if name in kept}
    return _next(flag, **told)


def _next(flag: Flag, **told: Any) -> Flag:
    """Return the flag's next change, which begins a new comparison."""
    number, now = flag.sequence + 1, datetime.datetime.now(datetime.UTC)
    content = {
        **flag.model_dump(),
        "sequence": number,
        "began": number,
        "began_at": now,
        "at": now,
        "evaluator": installed_evaluator(),
        "request": None,
        **told,
    }
    return Flag.model_validate(content)


def _assert_needs_nobody_else(institution: Institution, asked: dict[str, Any]) -> None:
    needed = max(asked["approvals"], institution.release.approvals_for(asked["transition"], asked["classification"]))
    if needed > 0:
        raise ConflictError(
            f"'{asked['transition']}' of {asked['adapter']} needs {needed} approvals.",
            "Request the transition, and have other officers approve the request.",
        )
