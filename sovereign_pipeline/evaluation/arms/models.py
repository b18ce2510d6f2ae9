"""Load base, incumbent and candidate. Score continuations and generate answers with each arm, and cache the results."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import canonical_json, digest_of, file_sha256
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.text import Countdown, silent
from sovereign_pipeline.base_models.chat_text import chat_text, encode_text
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.evaluation.arms import ARMS, Arm
from sovereign_pipeline.evaluation.arms.token_tree import longest_branch, read_prompts
from sovereign_pipeline.record.production import Part, make_part
from sovereign_pipeline.record.stage import Config, Progress, Workplace
from sovereign_pipeline.training.tuned_model import TunedModel

ROWS_FILE = "rows.jsonl"
LIBRARIES = ("lm-eval", "peft", "tokenizers", "torch", "transformers")
SOURCES = Path(__file__).parent
BESIDE = [SOURCES.parents[1] / "base_models" / name for name in ("batch.py", "chat_text.py")]
"""Together with `SOURCES`, the code that decides a score or an answer. The digest of this code identifies cached
results, so no version number has to be increased by hand."""
CachedKind = Literal["cached_scores", "cached_answers"]
Row = TypeVar("Row")


Turn = Mapping[str, Any]
"""A message in the format of OpenAI's API, which datasets and chat templates use."""


def prompt_text(tokenizer: Any, user: str | Sequence[Turn], tools: Sequence[Turn] = ()) -> str:
    """Return the rendered conversation up to the assistant's reply. `user`: text of the only turn, or all turns."""
    return chat_text(tokenizer, _turns("user", user), tools, add_generation_prompt=True)


def reply_text(
    tokenizer: Any,
    user: str | Sequence[Turn],
    reply: str | Sequence[Turn],
    end_of_turn: frozenset[int],
    tools: Sequence[Turn] = (),
) -> str:
    """Return the text of the assistant's turn that follows `prompt_text`: the reply with its end-of-turn token.
    `end_of_turn`: the token ids at which generation stops. Raises InputError if the template changes the prompt when a
    reply follows, or does not end the turn with one of these token ids.
    """
    prompt = prompt_text(tokenizer, user, tools)
    whole = chat_text(tokenizer, [*_turns("user", user), *_turns("assistant", reply)], tools)
    if not whole.startswith(prompt):
        raise InputError(
            "The base model's chat template changes the prompt when a reply follows, so the reply cannot be scored as "
            "it was trained.",
            "Use a base model whose template keeps the prompt unchanged.",
        )
    rest = whole[len(prompt) :]
    ends = [
        rest.rindex(mark) + len(mark)
        for mark in (str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(end_of_turn))
        if mark in rest
    ]
    if not ends:
        raise InputError(
            "The base model's chat template does not end the assistant's turn with a token at which generation stops.",
            "Correct eos_token_id in the model's generation_config.json.",
        )
    return rest[: max(ends)]


def _turns(role: str, turns: str | Sequence[Turn]) -> list[Turn]:
    return [{"role": role, "content": turns}] if isinstance(turns, str) else list(turns)


@dataclass(frozen=True)
class Origin:
    """The identity of one arm."""

    digests: Mapping[str, str]
    """Digests of the base model's files, and of the artifact that was tuned from the base model."""
    classification: str
    """Classification level of the base model or of the tuned artifact, whichever is higher."""


@dataclass(frozen=True)
class ScoreCache:
    """The cache of the arms' scores and answers in one session."""

    workplace: Workplace
    level: str
    """Classification level of the items of this session."""
    origins: Mapping[Arm, Origin]
    items: Counter[tuple[Arm, str]] = field(default_factory=Counter)
    """(arm, "kept" or "computed") -> number of items. "kept" means that the item was found in the cache. "computed":
    computed and cached."""

    @property
    def measured(self) -> dict[str, float]:
        """Return the counts `<arm>_items_kept` and `<arm>_items_computed`, which a stage reports in `measured`."""
        return {f"{arm}_items_{how}": float(count) for (arm, how), count in sorted(self.items.items())}

    def get_or_compute(
        self,
        kind: CachedKind,
        arm: Arm,
        items: Sequence[Any],
        settings: Config,
        form: TypeAdapter[list[Row]],
        compute: Callable[[], list[Row]],
    ) -> list[Row]:
        """Return the cached result for exactly these items, or compute and cache it.

        The classification level is part of the identity, so a cached entry never has a higher level than a result
        computed in this session. Raises IntegrityError if an entry was changed.

        Args:
            items: JSON of each item, in order.
            settings: everything else that decides the result.
            form: type of the result, which has one row per item.
        """
        origin = self.origins[arm]
        part = Part(
            kind=kind,
            code_version=digest_of([sources_digest(SOURCES), *map(file_sha256, BESIDE)]),
            config=settings,
            inputs={**origin.digests, "items": digest_of(list(items))},
            libraries=LIBRARIES,
            classification=self.workplace.institution.ladder.highest((origin.classification, self.level)),
        )

        def build(workspace: Path) -> dict[str, int]:
            computed = form.dump_python(compute(), mode="json")
            (workspace / ROWS_FILE).write_bytes(b"".join(canonical_json(each) + b"\n" for each in computed))
            return {"items": len(computed)}

        production = make_part(self.workplace, part, build)
        self.items[arm, "kept" if production.reused else "computed"] += len(items)
        return _read(self.workplace.store.open(production.ref).file(ROWS_FILE), form, len(items))


def sources_digest(package: Path) -> str:
    """Return the SHA-256 over the paths and bytes of a package's Python sources."""
    return digest_of({str(file.relative_to(package)): file_sha256(file) for file in sorted(package.rglob("*.py"))})


def _read(path: Path, form: TypeAdapter[list[Row]], items: int) -> list[Row]:
    try:
        rows = form.validate_python(list(read_jsonl(path)))
    except ValueError:  # pydantic's errors are ValueErrors
        rows = []
    if len(rows) != items:
        raise IntegrityError(
            f"{path} does not contain one result for each of {items} items.",
            "Restore the directory from a copy, or remove it to compute the results again.",
        )
    return rows


@dataclass(frozen=True)
class Item:
    """A context and its possible continuations, as text in the chat template."""

    id: str
    context: str
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """The scores of one item's continuations."""

    id: str
    log_likelihoods: tuple[float, ...]
    """Log-likelihood of each continuation, in nats, summed over its tokens."""
    tokens: tuple[int, ...]
    """Number of tokens of each continuation."""

    @property
    def losses(self) -> tuple[float, ...]:
        """Mean negative log-likelihood per token (nats) of each continuation."""
        return tuple(-total / count for total, count in zip(self.log_likelihoods, self.tokens, strict=True))


@dataclass(frozen=True)
class Answer:
    """One generated answer."""

    text: str
    """The text as generated, white space included."""
    tokens: int
    """Number of generated tokens, the end-of-turn token included."""
    stopped: bool
    """True if the model ended its turn itself."""


_SCORES, _ANSWERS = TypeAdapter(list[Score]), TypeAdapter(list[Answer])


@dataclass(frozen=True)
class LoadedArm:
    """One arm in memory."""

    model: Any
    scorer: Any
    """lm-eval's view of the model, a ChatScorer."""
    active: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Function that returns a context in which `model` computes as this arm, for example with only this arm's adapter
    active."""


@dataclass(frozen=True)
class Models:
    """The loaded arms of one session."""

    loaded: Mapping[Arm, LoadedArm]
    """The base and all adapters share one PeftModel, on which at most one adapter is active. A model tuned in full is a
    separate model."""
    tokenizer: Any
    """The base model's tokenizer, for all arms."""
    end_of_turn: frozenset[int]
    """Token ids at which generation stops."""
    cache: ScoreCache | None = None
    """Cache of results; None computes everything."""
    progress: Progress = silent

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Return the loaded arms, in the order base, incumbent, candidate."""
        return tuple(arm for arm in ARMS if arm in self.loaded)

    @property
    def max_length(self) -> int:
        """Return the maximum number of tokens that the model takes at once."""
        return int(self.loaded["base"].scorer.max_length)

    @property
    def dtype(self) -> str:
        return str(self.loaded["base"].model.dtype).removeprefix("torch.")

    @property
    def hardware(self) -> str:
        """Return the GPU's name, or the CPU's instruction set and number of threads. They may affect a score's last
        digits."""
        import torch

        if self.loaded["base"].model.device.type == "cuda":
            return str(torch.cuda.get_device_name())
        return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"

    def token_ids(self, item: Item, continuation: int = 0) -> tuple[list[int], list[int]]:
        """Return the token ids of the context and of one continuation, as scored. Raises InputError (see
        ChatScorer)."""
        context, following = self.loaded["base"].scorer.encode(item.context, item.continuations[continuation])
        return context, following

    def token_counts(self, item: Item) -> tuple[int, int]:
        """Return the numbers of tokens of the context and the first continuation, even if they exceed `max_length`."""
        context, following = self.loaded["base"].scorer.split(item.context, item.continuations[0])
        return len(context), len(following)

    def score(self, name: str, items: Sequence[Item], arm: Arm, unit: str = "item") -> list[Score]:
        """Score every continuation of every item with one arm. Returns the scores in the order of the items.

        Raises InputError (see ChatScorer), also for a log-likelihood that is not finite.

        Args:
            name: name of the task, for messages.
            unit: noun for an item, for progress messages.
        """
        compute = partial(self._score, name, items, arm, unit)
        if self.cache is None:
            return compute()
        listed = [[item.id, item.context, list(item.continuations)] for item in items]
        return self.cache.get_or_compute("cached_scores", arm, listed, self._settings(), _SCORES, compute)

    def answer(
        self,
        prompts: Sequence[str],
        arm: Arm,
        max_new_tokens: int,
        batch_size: int,
        unit: str = "prompt",
        special_tokens: bool = False,
    ) -> list[Answer]:
        """Return greedy answers to prompts in the chat template, in the order of the prompts.

        special_tokens: True if the returned texts include special tokens before the end of turn, such as those around
        tool calls.
        """
        compute = partial(self._answer, prompts, arm, max_new_tokens, batch_size, unit, special_tokens)
        if self.cache is None:
            return compute()
        settings = self._settings(
            max_new_tokens=max_new_tokens, batch_size=batch_size, special_tokens=int(special_tokens)
        )
        return self.cache.get_or_compute("cached_answers", arm, prompts, settings, _ANSWERS, compute)

    def _settings(self, **generation: int) -> dict[str, Any]:
        return {**generation, "dtype": self.dtype, "hardware": self.hardware}

    def _score(self, name: str, items: Sequence[Item], arm: Arm, unit: str) -> list[Score]:
        from sovereign_pipeline.evaluation.arms.harness import log_likelihoods

        texts = [(item.context, item.continuations) for item in items]
        continuations = sum(len(item.continuations) for item in items)
        countdown = Countdown(self.progress, f"{name}, {arm}", len(items), unit)
        loaded = self.loaded[arm]
        with loaded.active():
            likelihoods = log_likelihoods(
                loaded.scorer, texts, lambda scored: countdown.reached(scored * len(items) // continuations)
            )
        for item, found in zip(items, likelihoods, strict=True):
            if not all(map(math.isfinite, found)):
                raise InputError(
                    f"{name}, {item.id}: the {arm} gives a log-likelihood that is not finite.",
                    "Train again, or check the base model.",
                )
        return [
            Score(
                id=item.id,
                log_likelihoods=found,
                tokens=tuple(len(self.token_ids(item, index)[1]) for index in range(len(item.continuations))),
            )
            for item, found in zip(items, likelihoods, strict=True)
        ]

    def _answer(
        self,
        prompts: Sequence[str],
        arm: Arm,
        max_new_tokens: int,
        batch_size: int,
        unit: str,
        special_tokens: bool,
    ) -> list[Answer]:
        if not prompts:
            return []
        encoded = [encode_text(self.tokenizer, prompt) for prompt in prompts]
        from sovereign_pipeline.base_models.batch import generate

        countdown = Countdown(self.progress, arm, len(prompts), unit)
        loaded = self.loaded[arm]
        with loaded.active():
            branch = longest_branch(loaded.model, max(encoded, key=len)) - max_new_tokens
            new = generate(
                loaded.model,
                encoded,
                max_new_tokens,
                self.end_of_turn,
                batch_size,
                lambda rows: countdown.reached(sum(row.is_complete for row in rows)),
                lambda prompts: read_prompts(loaded.model, prompts, branch),
            )
        return [self._read(ids, special_tokens) for ids in new]

    def _read(self, ids: list[int], special_tokens: bool) -> Answer:
        end = next((index for index, token in enumerate(ids) if token in self.end_of_turn), None)
        content = ids if end is None else ids[:end]
        return Answer(
            text=self.tokenizer.decode(content, skip_special_tokens=not special_tokens),
            tokens=len(ids) if end is None else end + 1,
            stopped=end is not None,
        )


@contextmanager
def open_models(
    base: Path,
    tuned: Mapping[Arm, TunedModel],
    cache: ScoreCache | None = None,
    progress: Progress = silent,
    *,
    precision: str,
) -> Iterator[Models]:
    """Load the base and the models tuned from it from local directories, on the GPU if there is one.

    All adapters share one copy of the base; each model tuned in full needs as much memory as the base. Raises
    InputError if a model, tokenizer or adapter cannot be loaded, if an adapter is not for this base, if the tokenizer
    has no chat template, or if a tuned model has another vocabulary.

    Args:
        tuned: the candidate, and the incumbent if there is one, each tuned from this base.
        cache: see `Models`.
        precision: `float32` or `bfloat16`, for the weights of all arms. An adapter's own weights stay in float32.
    """
    progress(f"loading {' and '.join(arm for arm in ARMS if arm == 'base' or arm in tuned)}")
    go_offline()
    # Hide two kinds of logs: bitsandbytes reports a kernel that it does not need, and lm-eval may quote an item.
    for library in ("bitsandbytes", "lm_eval"):
        logging.getLogger(library).setLevel(logging.ERROR)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from sovereign_pipeline.evaluation.arms.harness import ChatScorer

    disable_progress_bar()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = partial(AutoModelForCausalLM.from_pretrained, dtype=getattr(torch, precision), local_files_only=True)
    adapters = {arm: each.directory for arm, each in tuned.items() if each.holds == "adapter"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        model = _with_adapters(load(base), adapters).to(device).eval()
        whole = {arm: load(each.directory).to(device).eval() for arm, each in tuned.items() if arm not in adapters}
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        described = " and ".join(f"{each.directory} ({each.holds})" for each in tuned.values())
        raise InputError(
            f"{base} with {described} cannot be loaded as base model and models tuned from it "
            f"({type(error).__name__}).",
            "Materialize base_model and aligned_adapter again.",
        ) from error
    vocabulary = _vocabulary(model)
    for arm, other in whole.items():
        if _vocabulary(other) != vocabulary:
            raise InputError(
                f"{tuned[arm].directory} has {_vocabulary(other)} tokens in its vocabulary, but its base has "
                f"{vocabulary}. Their scores cannot be compared.",
                "Train again from this base.",
            )
    if tokenizer.chat_template is None:
        raise InputError(f"The tokenizer of {base} has no chat template.", "Use an instruction-tuned base model.")
    scorer = ChatScorer(pretrained=model, tokenizer=tokenizer)
    loaded: dict[Arm, LoadedArm] = {
        "base": LoadedArm(model, scorer, model.disable_adapter) if adapters else LoadedArm(model, scorer)
    }
    for arm in adapters:
        loaded[arm] = LoadedArm(model, scorer, partial(_adapter, model, arm))
    for arm, other in whole.items():
        of_its_own = ChatScorer(pretrained=other, tokenizer=tokenizer)
        loaded[arm] = LoadedArm(other, of_its_own)
    yield Models(loaded, tokenizer, _end_of_turn(model, tokenizer), cache, progress)


def _with_adapters(model: Any, adapters: Mapping[Arm, Path]) -> Any:
    """Return a PeftModel with every adapter under the name of its arm, or the model itself if there are no adapters."""
    from peft import PeftModel

    for arm, directory in adapters.items():
        if isinstance(model, PeftModel):
            model.load_adapter(str(directory), adapter_name=arm)
        else:
            model = PeftModel.from_pretrained(model, str(directory), adapter_name=arm)
    return model


@contextmanager
def _adapter(model: Any, arm: Arm) -> Iterator[None]:
    """Within the context, activate this arm's adapter alone."""
    model.set_adapter(arm)
    yield


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _end_of_turn(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the token ids at which generation stops: the model's own, and the tokenizer's end of sequence."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)
