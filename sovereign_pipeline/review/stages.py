"""Define two stages. `review_plan` chooses prompts, generates the answers of candidate and opponent, and seals them.
`blind_review` reads closed reviews and counts their ballots."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from sovereign_pipeline.base.errors import (
    CeilingExceeded,
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    SourceError,
)
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.base.text import Countdown, and_more, counted, folded
from sovereign_pipeline.base_models.chat_text import encode_text
from sovereign_pipeline.base_models.stages import open_base_model
from sovereign_pipeline.base_models.tool_form import ToolForm
from sovereign_pipeline.corpus.document import Document, Message, read_documents, write_jsonl
from sovereign_pipeline.dataset import jsonl
from sovereign_pipeline.evaluation.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Models, open_models, prompt_text
from sovereign_pipeline.evaluation.tool_calls import form_of
from sovereign_pipeline.policy.evaluation import OfficerMay_review as OfficerMay
from sovereign_pipeline.policy.evaluation import Review
from sovereign_pipeline.record.catalog import ENDED, adapters_of, find_adapter, registered_as, states
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Built, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact, ArtifactStore
from sovereign_pipeline.record.tables import Adapter, BlindReview, ReviewClosing
from sovereign_pipeline.review.acts import ReviewSecrets, find_closed, find_closed_of
from sovereign_pipeline.review.closing import assert_none, findings_in, read_log, rows_of
from sovereign_pipeline.review.plan import (
    PLAN_FILE,
    PROMPTS_FILE,
    REVIEW_PLAN,
    SEALED_FILE,
    AnswerPair,
    OpponentChoice,
    PlannedPair,
    Prompt,
    ReviewPlan,
    answers_of,
    commitment,
    deal,
    plan_of,
    read_plan,
    readable,
    seal_answers,
)
from sovereign_pipeline.review.result import (
    ClosedReview,
    EarlyClosing,
    ReviewResult,
    as_markdown,
    evaluate_net_preference,
    has_lost,
    is_counted,
    review_result,
    unblind_ballots,
    unblind_guesses,
)
from sovereign_pipeline.split import HELD_OUT, TRAIN
from sovereign_pipeline.split.shingles import normal_text
from sovereign_pipeline.suites.rows import EvaluationItem, digest_of_items, read_items
from sovereign_pipeline.training.continuation import all_that_is_beneath
from sovereign_pipeline.training.tuned_model import TunedModel, tuned_model

Rows = tuple[BlindReview, ReviewClosing]
"""The registry's rows of a closed review, without its ballots."""


@dataclass(frozen=True)
class ReviewsToDate:
    """The newest closed review of an adapter's weights, and all earlier closed reviews of the adapter's line."""

    newest: Rows
    earlier: Sequence[Rows]

    def digests(self) -> dict[str, str]:
        """Return a mapping of name to digest for every input of the review's result."""
        review, closing = self.newest
        return {
            "review_plan": review.plan_digest,
            "ballots": closing.ballots_sha256,
            "earlier_reviews": digest_of([[each.plan_digest, ended.ballots_sha256] for each, ended in self.earlier]),
        }

    def read(self, registry: Registry, store: ArtifactStore) -> tuple[ClosedReview, list[ClosedReview]]:
        *earlier, newest = read_closed(registry, store, [*self.earlier, self.newest])
        return newest, earlier


def find_reviews(workplace: Workplace, registered: ArtifactRef | None) -> ReviewsToDate:
    """Find the newest closed review of the weights in a line's current registered_adapter artifact, and the line's
    earlier reviews. Raises NotFoundError if no review of these weights is closed."""
    line, registry = workplace.line.line, open_registry(workplace.settings)
    adapter = registered_as(registry, registered.digest) if registered is not None else None
    found = reviews_of(registry, adapter) if adapter is not None else None
    if found is None:
        raise NotFoundError(
            f"Line {line}: there is no closed review of its current registered adapter.",
            "Open a review, and close it when all ballots are cast.",
            act="open_review",
            line=line,
        )
    return found


def reviews_of(registry: Registry, adapter: Adapter) -> ReviewsToDate | None:
    """Return the newest closed review of an adapter's weights, in any artifact or version, and all earlier closed
    reviews of the line. Return None if no review of these weights is closed."""
    closed = find_closed(registry, adapter.line)
    ids = {review.id for review, _ in find_closed_of(registry, adapter.line, adapter.adapter_sha256)}
    numbers = [number for number, (review, _) in enumerate(closed) if review.id in ids]
    return ReviewsToDate(closed[numbers[-1]], closed[: numbers[-1]]) if numbers else None


def standings(registry: Registry, store: ArtifactStore, line: str) -> dict[str, bool]:
    """Return a mapping of the SHA-256 of reviewed weights to a boolean: True if the weights lost their newest review
    with counted ballots.

    The key is the weights' digest, because a changed recipe can result in another artifact with the same weights.
    Raises IntegrityError if a review was changed.
    """
    closed = read_closed(registry, store, find_closed(registry, line))
    return {each.contents.plan.candidate_weights: has_lost(each) for each in closed if is_counted(each)}


def adapters_that_lost(registry: Registry, store: ArtifactStore, line: str) -> set[str]:
    """Return the SHA-256 of all weights of the line that lost their newest blind review. An adapter with these weights
    cannot be the incumbent. Raises IntegrityError if a review was changed."""
    return {weights for weights, lost in standings(registry, store, line).items() if lost}


def read_closed(registry: Registry, store: ArtifactStore, closed: Sequence[Rows]) -> list[ClosedReview]:
    """Read closed reviews, and compare each review with its acts in the ledger. Raises IntegrityError with all
    differences of the first review that was changed."""
    if not closed:
        return []
    with registry.reading() as session:
        log = read_log(session)
        rows = [rows_of(session, review, log) for review, _ in closed]
        plans = [plan_of(store, review) for review, _ in closed]
    read = []
    for each, contents, (review, closing) in zip(rows, plans, closed, strict=True):
        assert_none(review.id, findings_in(each, contents, registry.settings))
        early = None
        if closing.officer is not None:
            early = EarlyClosing(officer=closing.officer, reason=closing.reason or "")
        seed = bytes.fromhex(closing.seed)
        read.append(ClosedReview(review.id, contents, seed, each.ballots, each.guesses, early))
    return read


BASE = "base"
"""Name of the base model as an opponent. No adapter can have this id, because adapter ids end with a version."""


@dataclass(frozen=True)
class Opponent:
    adapter: Adapter | None = field(compare=False)
    """The adapter; None for the candidate's base model."""
    id: str
    choice: OpponentChoice


def choose_opponent(
    registry: Registry, store: ArtifactStore, candidate: Adapter, named: str | None, actor: str
) -> Opponent:
    """Return the opponent `named` or, if it is None, the opponent that the rule chooses.

    Args:
        named: id of an adapter of the line, or `base`; None lets the rule choose.
        actor: the person who named the opponent.

    Raises NotFoundError for an unknown adapter, InputError for an adapter of another line or with the candidate's
    weights, and ConflictError for an opponent that lost its review. Also raises ConflictError if the candidate was
    reviewed before and `named` is not the rule's choice. Otherwise a candidate could be reviewed again and again until
    it meets a weak opponent.
    """
    standing = standings(registry, store, candidate.line)
    others = _other_adapters(registry, candidate)
    by_rule = next((each for each in others if standing.get(each.adapter_sha256) is False), None)
    newer = others[: others.index(by_rule)] if by_rule is not None else others
    opponent = by_rule if named is None else _named(registry, candidate, named, standing)
    if _name(candidate, opponent) != _name(candidate, by_rule) and candidate.adapter_sha256 in standing:
        raise ConflictError(
            f"{candidate.id} was reviewed already, so its next opponent must be the rule's choice: "
            f"{_name(candidate, by_rule)}.",
            "Do not name an opponent.",
        )
    return Opponent(
        opponent,
        _name(candidate, opponent),
        OpponentChoice(
            named_by=actor if named is not None else None,
            by_rule=_name(candidate, by_rule),
            is_reviewed=opponent.adapter_sha256 in standing if opponent is not None else None,
            never_reviewed=tuple(each.id for each in newer if each.adapter_sha256 not in standing),
        ),
    )


def _other_adapters(registry: Registry, candidate: Adapter) -> list[Adapter]:
    """Return the line's adapters in use (not in `ENDED`) whose weights differ from the candidate's, newest first."""
    with registry.reading() as session:
        adapters, state = adapters_of(session, candidate.line), states(session, candidate.line)
    others = [
        each for each in adapters if each.adapter_sha256 != candidate.adapter_sha256 and state[each.id] not in ENDED
    ]
    return sorted(others, key=lambda each: each.version_numbers, reverse=True)


def _named(registry: Registry, candidate: Adapter, named: str, standing: Mapping[str, bool]) -> Adapter | None:
    if named == BASE:
        return None
    opponent = find_adapter(registry, named)
    if opponent.line != candidate.line:
        raise InputError(
            f"{named} is an adapter of line {opponent.line}, not of {candidate.line}.", "Choose another opponent."
        )
    if opponent.adapter_sha256 == candidate.adapter_sha256:
        raise InputError(f"{named} has the same weights as the candidate {candidate.id}.", "Choose another opponent.")
    if standing.get(opponent.adapter_sha256):
        raise ConflictError(f"{named} lost its blind review, so it cannot be an opponent.", "Choose another opponent.")
    return opponent


def _name(candidate: Adapter, opponent: Adapter | None) -> str:
    return opponent.id if opponent is not None else candidate.base_model


RESULT_FILE, TABLES_FILE = "review.json", "review.md"
BALLOTS_FILE, GUESSES_FILE, ANSWERS_FILE = "ballots.jsonl", "guesses.jsonl", "answers.jsonl"


def blind_review_stage(upstream: Stage) -> Stage:
    """Return the stage `blind_review`. `upstream` is the stage that registers the adapter."""

    def reviews(workplace: Workplace) -> ReviewsToDate:
        return find_reviews(workplace, workplace.store.current(workplace.line.line, upstream.kind))

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        return _build(reviews(workplace), workplace, workspace)

    def evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        return _evaluate(reviews(workplace), workplace, artifact)

    return Stage(
        kind="blind_review",
        code_version="5",
        build=build,
        inputs=(upstream,),
        external=lambda workplace: reviews(workplace).digests(),
        libraries=("evalica", "numpy", "pandas", "scipy"),
        judges_what_is_recorded=True,
        gates=(
            Gate(
                name="net_preference_not_negative",
                question="Did blinded operators prefer the candidate at least as often as its opponent?",
                code_version="4",
                evaluate=evaluate,
                officer_may=lambda line: line.gates.review.officer_may,
                agreed=_agreed,
            ),
        ),
    )


def _build(reviews: ReviewsToDate, workplace: Workplace, workspace: Path) -> Built:
    closed, earlier = reviews.read(open_registry(workplace.settings), workplace.store)
    result = review_result(closed, earlier)
    (workspace / RESULT_FILE).write_bytes(_as_bytes(result))
    (workspace / TABLES_FILE).write_text(as_markdown(result), encoding="utf-8")
    write_jsonl(workspace / BALLOTS_FILE, (each.model_dump() for each in unblind_ballots(closed)))
    write_jsonl(workspace / GUESSES_FILE, (each.model_dump() for each in unblind_guesses(closed)))
    review, _ = reviews.newest
    answers = answers_of(workplace.store, review, closed.seed)
    write_jsonl(workspace / ANSWERS_FILE, (each.model_dump() for each in answers.values()))
    plan = workplace.store.read_manifest(workplace.store.ref_of(review.plan_digest))
    return Built(
        summary={
            "review": result.review,
            "adapter": result.adapter,
            "opponent": result.opponent,
            "ballots": result.ballots,
            "operators": result.operators,
            "closed_early": result.closed_early is not None,
            "net_preference": result.net_preference.model_dump(mode="json"),
        },
        classification=plan.classification,
    )


def _evaluate(reviews: ReviewsToDate, workplace: Workplace, artifact: Artifact) -> Verdict:
    """Recompute the result from the registry's ballots, the plan and the seed. Return its verdict, or a fail if the
    stored result is different."""
    closed, earlier = reviews.read(open_registry(workplace.settings), workplace.store)
    result = review_result(closed, earlier)
    verdict = evaluate_net_preference(result)
    if artifact.file(RESULT_FILE).read_bytes() == _as_bytes(result):
        return verdict
    return Verdict(
        False, f"{RESULT_FILE} does not match the ballots. Materialize blind_review again.", verdict.evidence
    )


def _agreed(workplace: Workplace, ref: ArtifactRef) -> OfficerMay:
    """Return the waivers that the review's plan permits. The plan was sealed before the first ballot."""
    plan = workplace.store.read_manifest(ref).external_inputs["review_plan"]
    return read_plan(workplace.store, workplace.store.ref_of(plan)).plan.officer_may


def _as_bytes(result: ReviewResult) -> bytes:
    return canonical_json(result.model_dump(mode="json")) + b"\n"


class PromptRow(EvaluationItem):
    """A row of a prompt file."""

    classification: str
    prompt: str
    """A user's text, without the line's instruction."""


@dataclass(frozen=True)
class UsablePrompts:
    """The prompts that may be shown to operators."""

    prompts: tuple[Prompt, ...]
    classification: str | None
    """Highest classification level of the prompts. None means the split's level."""
    trained_by_opponent: int
    """Number of prompts that are left out because the opponent was trained on their document or case."""


def held_out_prompts(split: Artifact, trained_by_opponent: Sequence[Artifact]) -> UsablePrompts:
    """Return the candidate's held-out documents as prompts. Leaves out documents that are preferences.

    Args:
        trained_by_opponent: the splits that the opponent was trained on. Documents and cases on the training side of
            these splits are left out, because they would favour the opponent.
    """
    ids, cases = set(), set()
    for each in trained_by_opponent:
        for document in read_documents(each.file(TRAIN)):
            ids.add(document.id)
            cases.add(folded(document.case))
    documents = [each for each in read_documents(split.file(HELD_OUT)) if not each.is_preference]
    fresh = [each for each in documents if each.id not in ids and folded(each.case) not in cases]
    return UsablePrompts(tuple(map(prompt_of, fresh)), None, len(documents) - len(fresh))


def file_prompts(workplace: Workplace, path: Path, trained: Sequence[Artifact]) -> UsablePrompts:
    """Return the rows of a prompt file.

    Args:
        trained: every split on which candidate or opponent was trained.

    Raises the errors of `read_items`, SourceError if a classification level is unknown, and CeilingExceeded for a row
    above the line's ceiling. Raises SourceError if a row equals the request (with or without its subject) or a user
    message of a training document, ignoring punctuation and spacing.
    """
    rows = read_items(path, PromptRow)
    ladder, ceiling = workplace.institution.ladder, workplace.line.ceiling
    for row in rows:
        if row.classification not in ladder:
            raise SourceError(
                f"{path}: row {row.id} is classified as '{row.classification}', which is not a classification "
                "level of the institution.",
                f"Use one of {', '.join(ladder.levels)}.",
            )
        if ladder.exceeds(row.classification, ceiling):
            raise CeilingExceeded(
                f"{path}: row {row.id} has the level {row.classification}, but the ceiling of line "
                f"{workplace.line.line} is {ceiling}.",
                "Remove the row, or set `ceiling` in the line's recipe to the row's level or a higher one.",
            )
    texts = {
        normal_text(text)
        for split in trained
        for each in read_documents(split.file(TRAIN))
        for text in (_shown(each), each.request, *_user_turns(each))
    }
    known = [row.id for row in rows if normal_text(row.prompt) in texts]
    if known:
        raise SourceError(
            f"{path}: candidate or opponent was trained on {counted(len(known), 'row')} ({and_more(known)}).",
            "Remove these rows: a memorised answer proves nothing.",
        )
    return UsablePrompts(
        tuple(Prompt(id=row.id, language=row.language, text=row.prompt) for row in rows),
        ladder.highest(row.classification for row in rows),
        0,
    )


def assert_enough(line: str, count: int, review: Review, where: str) -> None:
    """Raise InputError if there are fewer prompts than a review needs. A review uses each prompt once."""
    if count >= review.prompts:
        return
    fits = (count - review.shared_prompts) // review.operator_count // 2 * 2
    advice = f"Set gates.review.prompts_each to {fits} in the line's recipe, or use" if fits >= 2 else "Use"
    raise InputError(
        f"Line {line}: {review.operator_count} operators with {review.prompts_each} prompts each and "
        f"{review.shared_prompts} shared prompts need {review.prompts} different prompts. {where} has {count}.",
        f"{advice} a prompt file of at least {review.prompts} rows.",
        act="open_review_with_prompts",
        line=line,
    )


def prompt_of(document: Document) -> Prompt:
    turns = () if document.is_letter else jsonl.conversation_row(document, "")["messages"][:-1]
    messages = tuple(map(jsonl.message_of, turns))
    return Prompt(
        id=document.id, language=document.language, text=_shown(document), messages=messages, tools=document.tools
    )


def _user_turns(document: Document) -> list[str]:
    return [] if document.is_letter else [turn.content for turn in document.messages if turn.role == "user"]


def _shown(document: Document) -> str:
    return jsonl.sft_row(document, "")["input"]


class Contenders(Protocol):
    """The loaded models of candidate and opponent, which generate the answers of a review."""

    @property
    def dtype(self) -> str: ...

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Return True if the whole prompt and `max_new_tokens` more tokens fit into the contexts of both models."""
        ...

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int) -> list[AnswerPair]:
        """Generate the answers of candidate and opponent with greedy decoding. Return the answers without surrounding
        whitespace, in the order of the prompts."""
        ...


OpenContenders = Callable[[Workplace, Artifact, Artifact | None], AbstractContextManager[Contenders]]
"""Function that loads the models from two registered_adapter artifacts, the candidate's and the opponent's. The second
is None if the opponent is the base model."""


@dataclass(frozen=True)
class LoadedContenders:
    instruction: str
    """The line's instruction. It precedes every prompt, as in training."""
    candidate: tuple[Models, Arm]
    opponent: tuple[Models, Arm]
    """Loaded models and arm of the opponent. Contenders with the same base model share the loaded models."""
    replaces: bool
    """True if a system message replaces the line's instruction (`dataset.jsonl.replaces_instruction`)."""

    @property
    def dtype(self) -> str:
        return self.candidate[0].dtype

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        return all(
            len(encode_text(models.tokenizer, self._text(models, prompt))) + max_new_tokens <= models.max_length
            for models, _ in (self.candidate, self.opponent)
        )

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int) -> list[AnswerPair]:
        def of(models: Models, arm: Arm) -> list[str]:
            answers = dict[str, str]()
            for with_tools in (False, True):
                chosen = [prompt for prompt in prompts if bool(prompt.tools) == with_tools]
                texts = [self._text(models, prompt) for prompt in chosen]
                given = models.answer(texts, arm, max_new_tokens, batch_size, special_tokens=with_tools)
                read = partial(_called, form_of(models.tokenizer)) if with_tools and chosen else str.strip
                answers.update({prompt.id: read(answer.text) for prompt, answer in zip(chosen, given, strict=True)})
            return [answers[prompt.id] for prompt in prompts]

        answered = zip(prompts, of(*self.candidate), of(*self.opponent), strict=True)
        return [AnswerPair(id=prompt.id, candidate=ours, opponent=theirs) for prompt, ours, theirs in answered]

    def _text(self, models: Models, prompt: Prompt) -> str:
        if not prompt.messages:
            return prompt_text(models.tokenizer, jsonl.user_message(self.instruction, prompt.text))
        served = jsonl.as_served(
            [jsonl.turn_of(message) for message in prompt.messages], self.instruction, self.replaces
        )
        return prompt_text(models.tokenizer, served.messages, prompt.tools)


def _called(form: ToolForm, text: str) -> str:
    """Return an answer with its tool calls, formatted for people."""
    content, calls = form.parse(text)
    return readable(Message(role="assistant", content=content.strip(), tool_calls=tuple(calls)))


@contextmanager
def open_contenders(workplace: Workplace, candidate: Artifact, opponent: Artifact | None) -> Iterator[LoadedContenders]:
    """Load the adapters of candidate and opponent. If `opponent` is None, the candidate's base model is the opponent.

    If candidate and opponent have different base models, both are loaded. Raises InputError if a model cannot be
    loaded, and IntegrityError if a model's files were changed.
    """
    store = workplace.store
    loaded = partial(
        LoadedContenders,
        workplace.line.training.instruction,
        replaces=jsonl.replaces_instruction(workplace.institution, workplace.line),
    )
    in_memory = partial(open_models, precision=workplace.line.named_evaluation.precision)

    def base_and_adapter(record: Artifact) -> tuple[Artifact, TunedModel]:
        base = store.open_input(record.manifest, "base_model")
        return base, tuned_model(store.open_input(record.manifest, "aligned_adapter"))

    base, tuned = base_and_adapter(candidate)
    directory = open_base_model(workplace.settings, base, workplace.progress)
    with ExitStack() as opened:
        if opponent is None:
            models = opened.enter_context(in_memory(directory, {"candidate": tuned}))
            yield loaded((models, "candidate"), (models, "base"))
            return
        other_base, other = base_and_adapter(opponent)
        if open_base_model(workplace.settings, other_base, workplace.progress) == directory:
            models = opened.enter_context(in_memory(directory, {"incumbent": other, "candidate": tuned}))
            yield loaded((models, "candidate"), (models, "incumbent"))
            return
        models = opened.enter_context(in_memory(directory, {"candidate": tuned}))
        others = opened.enter_context(
            in_memory(open_base_model(workplace.settings, other_base, workplace.progress), {"candidate": other})
        )
        yield loaded((models, "candidate"), (others, "candidate"))


Pairs = Mapping[str, Sequence[PlannedPair]]
"""Mapping of operator to pairs in display order."""


@dataclass(frozen=True)
class PlanRequest:
    """The inputs of a plan that are not in the recipe."""

    registry: Registry
    candidate: Adapter
    chosen: Opponent
    operators: tuple[str, ...]
    """Stored identifiers of the operators. A plan does not contain their names."""
    may_close_early: tuple[str, ...]
    """Stored identifiers of the officers whom the recipe lists."""
    prompt_file: Path | None
    """Path of a prompt file; None for the candidate's held-out documents."""
    drawn: ReviewSecrets
    open_contenders: OpenContenders

    @property
    def opponent(self) -> Adapter | None:
        return self.chosen.adapter

    @property
    def opponent_digest(self) -> str:
        """Digest of the artifact that generates the opponent's answers."""
        return self.candidate.base_model_digest if self.opponent is None else self.opponent.adapter_digest


def plan_stage(request: PlanRequest, upstream: Stage) -> Stage:
    """Return the stage `review_plan` of one review. The plan's identity includes the seed's SHA-256, so each review
    gets a new plan."""

    def external(workplace: Workplace) -> dict[str, str]:
        opponent = request.opponent
        files = {} if request.prompt_file is None else {"prompts": digest_of_items(request.prompt_file)}
        return {
            **files,
            "opponent": opponent.record_digest if opponent is not None else request.candidate.base_model_digest,
            "operators": digest_of(list(request.operators)),
            "may_close_early": digest_of(list(request.may_close_early)),
            "seed": commitment(request.drawn.seed),
            "act_key": request.drawn.public_key,
        }

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        return _build_plan(request, workplace, inputs[upstream.kind], workspace)

    return Stage(
        kind=REVIEW_PLAN,
        code_version="8",
        build=build,
        inputs=(upstream,),
        config=lambda line: {
            "instruction": line.training.instruction,
            "precision": line.named_evaluation.precision,
            "ceiling": line.ceiling,
            **line.gates.review.model_dump(mode="json", exclude={"operators", "may_close_early"}),
        },
        external=external,
        libraries=("peft", "torch", "transformers"),
    )


def _build_plan(request: PlanRequest, workplace: Workplace, record: Artifact, workspace: Path) -> Built:
    line, review = workplace.line, workplace.line.gates.review
    opponent_record = None if request.opponent is None else workplace.store.open(request.opponent.record_ref)
    if opponent_record is not None:
        _assert_below_ceiling(workplace, opponent_record)
    usable = _usable_prompts(request, workplace, record, opponent_record)
    where = "The held-out side of the split" if request.prompt_file is None else str(request.prompt_file)
    assert_enough(line.line, len(usable.prompts), review, where)
    workplace.progress("Loading the candidate and its opponent.")
    with request.open_contenders(workplace, record, opponent_record) as contenders:
        fitting = [each for each in usable.prompts if contenders.fits(each, review.max_new_tokens)]
        assert_enough(line.line, len(fitting), review, f"{where}, without the prompts that are too long for a model,")
        pairs = deal(request.drawn.seed, {each.id: each.language for each in fitting}, request.operators, review)
        used = {each.prompt for planned in pairs.values() for each in planned}
        prompts = [each for each in fitting if each.id in used]
        answers = _answers(contenders, prompts, workplace)
        dtype = contenders.dtype
    plan = _plan(request, workplace, pairs, answers, dtype)
    (workspace / PLAN_FILE).write_bytes(canonical_json(plan.model_dump(mode="json")) + b"\n")
    write_jsonl(workspace / PROMPTS_FILE, (each.model_dump() for each in prompts))
    (workspace / SEALED_FILE).write_bytes(seal_answers(request.drawn.seed, answers))
    levels = [usable.classification] if usable.classification is not None else []
    levels += [opponent_record.manifest.classification] if opponent_record is not None else []
    return Built(
        summary={
            "adapter": plan.adapter,
            "opponent": plan.opponent or plan.base_model,
            "operators": len(plan.operators),
            "prompts": len(prompts),
            "pairs": plan.pairs,
            "identical_answers": sum(answer.is_identical for answer in answers),
            "ballots_to_close": plan.ballots,
            "left_out_as_trained_by_opponent": usable.trained_by_opponent,
            "left_out_as_too_long": len(usable.prompts) - len(fitting),
        },
        classification=workplace.institution.ladder.highest(levels) if levels else None,
    )


def _answers(contenders: Contenders, prompts: Sequence[Prompt], workplace: Workplace) -> list[AnswerPair]:
    review = workplace.line.gates.review
    workplace.progress(f"Answering {len(prompts)} prompts with the candidate and its opponent.")
    countdown = Countdown(workplace.progress, "answers of candidate and opponent", len(prompts), "prompt")
    answers: list[AnswerPair] = []
    for start in range(0, len(prompts), review.batch_size):
        batch = prompts[start : start + review.batch_size]
        answers += contenders.answer(batch, review.max_new_tokens, review.batch_size)
        countdown.reached(len(answers))
    return answers


def _plan(
    request: PlanRequest, workplace: Workplace, pairs: Pairs, answers: Sequence[AnswerPair], dtype: str
) -> ReviewPlan:
    line, review = workplace.line, workplace.line.gates.review
    candidate, opponent = request.candidate, request.opponent
    return ReviewPlan(
        line=line.line,
        adapter=candidate.id,
        opponent=opponent.id if opponent is not None else None,
        base_model=candidate.base_model,
        candidate_digest=candidate.adapter_digest,
        opponent_digest=request.opponent_digest,
        candidate_weights=candidate.adapter_sha256,
        opponent_weights=opponent.adapter_sha256 if opponent is not None else None,
        opponent_choice=request.chosen.choice,
        prompts_from="held_out" if request.prompt_file is None else "file",
        seed_sha256=commitment(request.drawn.seed),
        act_key=request.drawn.public_key,
        identical=tuple(each.id for each in answers if each.is_identical),
        operators={name: tuple(planned) for name, planned in pairs.items()},
        ballots=_ballots_to_close(line.line, review, pairs, answers),
        margin=review.margin,
        officer_may=review.officer_may,
        may_close_early=request.may_close_early,
        guess_pairs=review.guess_pairs,
        criteria=review.criteria,
        settings={
            "decoding": "greedy",
            "dtype": dtype,
            "max_new_tokens": review.max_new_tokens,
            "batch_size": review.batch_size,
            "instruction_sha256": digest_of(line.training.instruction),
        },
    )


def _ballots_to_close(line: str, review: Review, pairs: Pairs, answers: Sequence[AnswerPair]) -> int:
    """Return the number of ballots that are required to close the review: the recipe's number, or the number of pairs
    to rate if that is smaller. Raises InputError if operators would rate no pairs, or only shared pairs."""
    differing = {each.id for each in answers if not each.is_identical}
    rated = [each for planned in pairs.values() for each in planned if each.prompt in differing]
    if all(each.shared for each in rated):
        raise InputError(
            f"Line {line}: candidate and opponent gave the same answer to every prompt that is not shared, so "
            f"there are no pairs to compare.",
            "Use a prompt file with other prompts, or train a candidate that differs.",
            act="open_review_with_prompts",
            line=line,
        )
    return min(review.ballots_to_close, len(rated))


def _assert_below_ceiling(workplace: Workplace, opponent: Artifact) -> None:
    level, ceiling = opponent.manifest.classification, workplace.line.ceiling
    if workplace.institution.ladder.exceeds(level, ceiling):
        raise CeilingExceeded(
            f"The ceiling of line {workplace.line.line} is {ceiling}, but the opponent is classified {level}, "
            f"so operators may not see the opponent's answers.",
            "Set `ceiling` in the line's recipe to the opponent's level, or to a higher one.",
        )


def _usable_prompts(
    request: PlanRequest, workplace: Workplace, record: Artifact, opponent: Artifact | None
) -> UsablePrompts:
    own, *earlier = _training_splits(workplace.store, record)
    of_opponent = [] if opponent is None else _training_splits(workplace.store, opponent)
    if request.prompt_file is not None:
        return file_prompts(workplace, request.prompt_file, [own, *earlier, *of_opponent])
    return held_out_prompts(own, of_opponent)


def _training_splits(store: ArtifactStore, record: Artifact) -> list[Artifact]:
    """Return the splits that an adapter was trained on. Its own split is first. The splits of its parent adapters
    follow, and the splits of its base model if the base model was tuned in this installation."""
    beneath = all_that_is_beneath(store, record.ref, set())  # breadth first, so the adapter's own split comes first
    found = [store.open(ref) for ref, _ in beneath if ref.kind == "leakage_safe_split"]
    if not found:
        raise IntegrityError(
            f"{record.path}: the adapter's inputs do not include a leakage_safe_split.", "Register the adapter again."
        )
    return found
