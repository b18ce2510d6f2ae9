"""Issue and use sign-in links, and record operators' ballots and guesses."""

import datetime
import hashlib
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError as RefusedByDatabase
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, NotFoundError, SignInError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.evaluation import Criterion
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import COMMITMENT, People, person_in_short
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import Ballot, BlindReview, Guess, SignInLink, SignInUse
from sovereign_pipeline.review import acts as custody
from sovereign_pipeline.review.plan import Position, plan_of

TOKEN_BYTES = 32


@dataclass(frozen=True)
class SignedIn:
    """An operator who is signed in to a review."""

    review: str
    operator: str
    sign_in: int | None = None
    """Number of the act that logs the operator's use of a link. None if the institution's proxy named the operator."""


def issue_link(entering: custody.Entering, operator: str, days: int, actor: str) -> str:
    """Create a one-time sign-in link in the transaction `entering`. Returns the link's token; only its hash is stored.

    Args:
        days: number of days until the link expires.
        actor: the person who requests the link. The ledger names this person, because the person could use the link.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    link = SignInLink(token_sha256=_sha256(token), review_id=entering.review, operator=operator, expires_at=expires_at)
    entering.session.add(link)
    entering.session.flush()
    subjects = {"operator": operator, "link": link.token_sha256, "row": custody.digest_of_row(link)}
    entering.enter(actor, custody.LINK_ISSUED, subjects)
    return token


def issue_another_link(registry: Registry, workplace: Workplace, operator: str, actor: str) -> str:
    """Create another link for an operator of the line's open review, and return its token. Sessions from earlier links
    end. Raises NotFoundError if the line has no open review, or if the review does not include the operator."""
    line = workplace.line.line
    with registry.reading() as session:
        review = custody.find_open(session, line)
    if review is None:
        raise NotFoundError(f"Line {line} has no open review.", "Open a review.", act="open_review", line=line)
    people, operators = People(workplace.settings), plan_of(workplace.store, review).plan.operators
    person = stands_for(people, operator, operators)
    if person is None:
        names = people.listed()
        known = ", ".join(people.shown(each, names) for each in operators)
        raise NotFoundError(
            f"'{operator}' is not an operator of the open review of line {line}.", f"Choose one of {known}."
        )
    with custody.entering_acts(workplace.settings, registry, review.id) as entering:
        return issue_link(entering, person, workplace.line.gates.review.link_days, actor)


def stands_for(people: People, name: str, persons: Collection[str]) -> str | None:
    """Return the identifier (a commitment or an operator number) under which `persons` contains the person `name`, or
    None. A commitment is not accepted as a name."""
    if COMMITMENT.fullmatch(name):  # a commitment cannot be a person's name
        return None
    person = people.known(name)
    return person if person in persons else name if name in persons else None


def assert_in_no_open_review(registry: Registry, store: ArtifactStore, person: str) -> None:
    """Raise ConflictError if an open review still needs a person's commitment. A review needs the commitments of its
    operators, of the officers who may close it early, and of the persons in its ledger entries."""
    for review in custody.find_all_open(registry):
        plan = plan_of(store, review).plan
        with registry.reading() as session:
            actors = {entry.actor for entry in custody.entries_of(session, review.id)}
        if person in {*plan.operators, *plan.may_close_early, *actors}:
            raise ConflictError(
                f"This person is part of the open review of line {review.line}.",
                "Close the review first.",
                act="review_status",
                line=review.line,
            )


def link_url(page: str, token: str) -> str:
    """Return the URL that an operator opens. Browsers do not send the token after `#`, so proxies cannot log it."""
    return f"{page.rstrip('/')}/sign-in#{token}"


def use_link(registry: Registry, settings: Settings, token: str) -> SignedIn:
    """Sign in with a link's token, and return the operator. A token can be used once. Raises SignInError if the token
    is unknown, used, expired or replaced by a newer token, or if no signed act issued the token's link. Raises the
    errors of `acts.entering_acts`, such as ConflictError for a closed review."""
    digest = _sha256(token)
    with registry.reading() as session:
        link = session.get(SignInLink, digest)
        review = session.get(BlindReview, link.review_id) if link is not None else None
    if link is None or review is None:
        raise _not_ours()
    with custody.entering_acts(settings, registry, review.id) as entering:
        newest = _newest_link(entering.session, review, link.operator)
        if newest is None or custody.without_act([link], _issuing(entering.session, review)):
            raise _not_ours()
        if entering.session.get(SignInUse, digest) is not None:
            raise SignInError("This link was used already.", "Ask the sender for a new link; no rating is lost.")
        if newest.subjects["link"] != digest:
            raise SignInError("There is a newer link for you.", "Open the newer link; no rating is lost.")
        now = datetime.datetime.now(datetime.UTC)
        if now >= link.expires_at:
            raise SignInError("This link has expired.", "Ask the sender for a new link; no rating is lost.")
        use = SignInUse(token_sha256=digest, used_at=now)
        entering.session.add(use)
        entering.session.flush()
        number = entering.enter(link.operator, custody.SIGNED_IN, {"link": digest, "row": custody.digest_of_row(use)})
    return SignedIn(review.id, link.operator, number)


def assert_newest(session: Session, review: BlindReview, who: SignedIn) -> None:
    """Raise SignInError if the operator has a newer link, which ended this sign-in."""
    newest = _newest_link(session, review, who.operator)
    if who.sign_in is not None and (newest is None or newest.number > who.sign_in):
        raise SignInError("A newer link has ended this session.", "Open the newer link; no rating is lost.")


def _newest_link(session: Session, review: BlindReview, operator: str) -> custody.Act | None:
    """Return the signed act that issued an operator's newest link, or None. An unsigned entry cannot end a session."""
    issued = [each for each in _issuing(session, review) if each.subjects["operator"] == operator]
    return issued[-1] if issued else None


def _issuing(session: Session, review: BlindReview) -> list[custody.Act]:
    entries = [each for each in custody.entries_of(session, review.id) if each.action == custody.LINK_ISSUED]
    return custody.acts_of(entries, review.act_key)


def _not_ours() -> SignInError:
    return SignInError("This link is invalid.", "Copy the complete link, or ask its sender for a new one.")


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


Preference = Literal["a", "b", "tie"]

LOWEST, HIGHEST = 1, 5
"""Lowest and highest rating."""

GIVEN = "This pair was rated already. The first rating counts."


@dataclass(frozen=True)
class Progress:
    operator: str
    ballots: int
    pairs: int
    """Number of pairs that the operator is asked to rate."""
    guesses: int


@dataclass(frozen=True)
class Given:
    """The ids of the pairs for which an operator has given a ballot or a guess."""

    ballots: frozenset[str]
    guesses: frozenset[str]


def give_ballot(
    registry: Registry,
    settings: Settings,
    who: SignedIn,
    pair: str,
    preference: Preference,
    ratings: Mapping[str, int],
) -> None:
    """Record a ballot and its act. The caller must first authenticate the operator and check that the pair is theirs.

    Args:
        ratings: mapping of a rating's name, such as `a.accuracy`, to a value from 1 to 5.

    Raises ConflictError for a second ballot, even an equal one, or if the review is closed. Raises IntegrityError if
    the registry was changed.
    """
    ballot = Ballot(
        review_id=who.review,
        operator=who.operator,
        pair=pair,
        preference=preference,
        ratings=dict(sorted(ratings.items())),
        given_at=datetime.datetime.now(datetime.UTC),
    )
    _record(registry, settings, who, ballot)


def give_guess(registry: Registry, settings: Settings, who: SignedIn, pair: str, choice: Position) -> None:
    """Record which answer of a pair an operator believes to be the candidate's. Raises the errors of `give_ballot`."""
    now = datetime.datetime.now(datetime.UTC)
    guess = Guess(review_id=who.review, operator=who.operator, pair=pair, choice=choice, given_at=now)
    _record(registry, settings, who, guess)


def given(registry: Registry, review: BlindReview, operator: str) -> Given:
    """Return the ids of the pairs for which an operator has given a ballot, and of the pairs with a guess. Pairs with
    identical answers count as rated. Raises IntegrityError if the rows differ from the operator's acts."""
    with registry.reading() as session:
        ballots = [each for each in ballots_of(session, review.id) if each.operator == operator]
        guesses = [each for each in guesses_of(session, review.id) if each.operator == operator]
        entries = [each for each in custody.entries_of(session, review.id) if each.actor == operator]
    on_record: list[Ballot | Guess] = [*filter(was_asked, ballots), *guesses]
    if custody.without_act(on_record, custody.acts_of(entries, review.act_key)):
        raise IntegrityError(
            f"Review {review.id}: the ballots or guesses of {person_in_short(operator)} differ from the ledger. "
            "Another program changed the registry.",
            custody.HINT,
        )
    return Given(frozenset(each.pair for each in ballots), frozenset(each.pair for each in guesses))


def progress(registry: Registry, review: BlindReview, pairs: Mapping[str, int]) -> list[Progress]:
    """Return the progress of every operator, without ratings.

    Args:
        pairs: mapping of operator to the number of pairs that the operator is asked to rate.
    """
    with registry.reading() as session:
        ballots = Counter(each.operator for each in ballots_of(session, review.id) if was_asked(each))
        guesses = Counter(each.operator for each in guesses_of(session, review.id))
    return [Progress(name, ballots[name], total, guesses[name]) for name, total in pairs.items()]


def ballots_of(session: Session, review: str) -> list[Ballot]:
    return list(
        session.scalars(select(Ballot).where(Ballot.review_id == review).order_by(Ballot.operator, Ballot.pair))
    )


def guesses_of(session: Session, review: str) -> list[Guess]:
    return list(session.scalars(select(Guess).where(Guess.review_id == review).order_by(Guess.operator, Guess.pair)))


def ballots_digest(ballots: Sequence[Ballot], guesses: Sequence[Guess]) -> str:
    """Return the SHA-256 of all ballots and guesses, independent of their order."""
    return digest_of(
        [sorted((content_of(each) for each in kind), key=itemgetter("operator", "pair")) for kind in (ballots, guesses)]
    )


def ratings_asked(criteria: Sequence[Criterion]) -> tuple[str, ...]:
    """Return the names of the ratings in one ballot, such as `a.accuracy`."""
    return tuple(f"{position}.{criterion}" for position in ("a", "b") for criterion in criteria)


def was_asked(record: Ballot | Guess) -> bool:
    """Return True if an operator gave this ballot or guess, and False for an automatic tie of identical answers."""
    return isinstance(record, Guess) or record.ratings is not None


def content_of(record: Ballot | Guess) -> dict[str, Any]:
    """Return the content of a ballot or guess. The ledger entry contains the SHA-256 of this content."""
    return {
        "review": record.review_id,
        "operator": record.operator,
        "pair": record.pair,
        "given_at": record.given_at.isoformat(timespec="microseconds"),
        **(
            {"choice": record.choice}
            if isinstance(record, Guess)
            else {"preference": record.preference, "ratings": record.ratings}
        ),
    }


def _record(registry: Registry, settings: Settings, who: SignedIn, record: Ballot | Guess) -> None:
    action = custody.BALLOT_GIVEN if isinstance(record, Ballot) else custody.GUESS_GIVEN
    try:
        with custody.entering_acts(settings, registry, who.review) as entering:
            if entering.session.get(type(record), (who.review, who.operator, record.pair)) is not None:
                raise ConflictError(GIVEN)
            sign_in = who.sign_in or _sign_in_by_proxy(entering, who)
            entering.session.add(record)
            entering.session.flush()
            subjects = {"pair": record.pair, "ballot": digest_of(content_of(record)), "sign_in": sign_in}
            entering.enter(who.operator, action, subjects)
    except RefusedByDatabase:
        raise ConflictError(GIVEN) from None


def _sign_in_by_proxy(entering: custody.Entering, who: SignedIn) -> int:
    """Return the number of the act that logs the operator's sign-in by the proxy. If no such act exists, append one."""
    for act in reversed(entering.acts()):
        if (act.action, act.actor) == (custody.SIGNED_IN, who.operator) and act.subjects.get("by") == custody.PROXY:
            return act.number
    return entering.enter(who.operator, custody.SIGNED_IN, {"by": custody.PROXY})
