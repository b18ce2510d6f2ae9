"""Count the tokens of rows with the base model's tokenizer, and count the rows that exceed the recipe's limit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import Field

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import Frozen, file_sha256
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base_models.stages import eos_ids, load_card, model_directory
from sovereign_pipeline.base_models.tool_form import for_template
from sovereign_pipeline.dataset.jsonl import Row, conversations_of
from sovereign_pipeline.record.stage import Workplace

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_IDS_SHOWN = 10


class TokenLengths(Frozen):
    """Statistics of the lengths of rows in tokens. The length of a row is the length of the prompt and the reply
    together. For a pair, the longer reply counts. Percentiles are by nearest rank. Without rows, all lengths are 0."""

    rows: int
    shortest: int
    p50: int
    p90: int
    p95: int
    p99: int
    longest: int
    over_limit: int
    """Number of rows above the limit, which training skips: a truncated row would teach the model not to stop."""
    over_limit_rows: tuple[str, ...]
    """Ids of the first rows above the limit."""

    @property
    def over_limit_share(self) -> float:
        return self.over_limit / self.rows if self.rows else 0.0


class TokenNumbers(Frozen):
    """Lengths of the rows of one dataset, separately for each side of the split."""

    base_model: str
    tokenizer: dict[str, str]
    """Maps `models/NAME/FILE` of each file from which the tokenizer is read to the file's SHA-256."""
    limit: int
    """Maximum length of a row in tokens, from the recipe."""
    training: TokenLengths
    selection: TokenLengths | None = Field(default=None, exclude_if=lambda lengths: lengths is None)
    held_out: TokenLengths


def tokenizer_digests(workplace: Workplace) -> dict[str, str]:
    """Return a dict that maps `models/NAME/FILE` of every file of the base model, except the weights, to the file's
    SHA-256. The tokenizer is read from these files. Raises NotFoundError for an unknown model, and IntegrityError if a
    file is missing or differs from its pinned digest."""
    card = load_card(workplace.settings, workplace.line.training.base_model)
    directory = model_directory(workplace.settings, card)
    digests = {}
    for name, pinned in sorted(card.files.items()):
        if name.endswith(_WEIGHTS):
            continue
        path = directory / name
        if not path.is_file():
            raise IntegrityError(
                f"{path}: this file of the base model {card.name} is missing. The tokenizer, which measures the rows "
                f"for the dataset's card, needs the file.",
                "Fetch the model, or restore the file.",
                act="fetch_model",
                model=card.name,
            )
        digests[f"models/{card.name}/{name}"] = file_sha256(path)
        if digests[f"models/{card.name}/{name}"] != pinned:
            raise IntegrityError(
                f"{path}: the file differs from the pinned digest of the base model {card.name}.",
                f"Restore the file, or remove {directory} and fetch the model again.",
                act="fetch_model",
                model=card.name,
            )
    return digests


@dataclass(frozen=True)
class BaseTokenizer:
    """The tokenizer of a recipe's base model, loaded on first use."""

    workplace: Workplace

    def lengths(self, rows: Sequence[Row]) -> list[int]:
        """Return the number of tokens of each row's prompt with its longest reply, in the chat template, up to the last
        end-of-turn token. Conversations are encoded in batches. The lengths equal those of `training/rows.py`, with one
        exception: a special token of the template within a text counts as one token here. Raises InputError for a row
        that the template rejects."""
        if not rows:
            return []
        tokenizer, ends = self.loaded
        rendered = [self._rendered(row) for row in rows]
        shown = [text for of_row in rendered for text in of_row]
        encoded = tokenizer(shown, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        lengths = (
            max((place for place, token in enumerate(ids, 1) if token in ends), default=len(ids)) for ids in encoded
        )
        return [max(next(lengths) for _ in of_row) for of_row in rendered]

    def _rendered(self, row: Row) -> list[str]:
        from jinja2 import TemplateError

        tokenizer, tools = self.loaded[0], row.get("tools")
        try:
            return [
                tokenizer.apply_chat_template(for_template(turns), tools=tools, tokenize=False)
                for turns in conversations_of(row)
            ]
        except TemplateError:
            raise InputError(
                f"Row {row['id']}: the chat template of the base model {self.workplace.line.training.base_model} "
                "rejects the row's messages, for example because of their order or of several calls in one turn.",
                "Exclude the row, or choose another base model. If the template rejects system messages, set "
                "`training.instruction`: the first user turn then has the instruction and the system messages.",
            ) from None

    @cached_property
    def loaded(self) -> tuple[Any, frozenset[int]]:
        """Return the tokenizer, and the ids of the tokens that end a turn."""
        go_offline()
        from transformers import AutoTokenizer

        directory = model_directory(
            self.workplace.settings, load_card(self.workplace.settings, self.workplace.line.training.base_model)
        )
        return AutoTokenizer.from_pretrained(directory, local_files_only=True), frozenset(eos_ids(directory))


@dataclass
class TokenCounts:
    """Counts how many rows have each length. Memory use depends on the number of different lengths, not of rows."""

    limit: int
    _lengths: Counter[int] = field(default_factory=Counter)
    _over: list[str] = field(default_factory=list)

    def add(self, row_id: str, tokens: int) -> None:
        self._lengths[tokens] += 1
        if tokens > self.limit and len(self._over) < _IDS_SHOWN:
            self._over.append(row_id)

    def result(self) -> TokenLengths:
        return TokenLengths(
            rows=self._lengths.total(),
            shortest=min(self._lengths, default=0),
            p50=self._percentile(50),
            p90=self._percentile(90),
            p95=self._percentile(95),
            p99=self._percentile(99),
            longest=max(self._lengths, default=0),
            over_limit=sum(count for tokens, count in self._lengths.items() if tokens > self.limit),
            over_limit_rows=tuple(self._over),
        )

    def _percentile(self, percent: int) -> int:
        """Return the smallest length that at least `percent` % of the rows do not exceed."""
        wanted = -(-self._lengths.total() * percent // 100)
        seen = 0
        for tokens, count in sorted(self._lengths.items()):
            seen += count
            if seen >= wanted:
                return tokens
        return 0


def as_table(numbers: TokenNumbers) -> list[Mapping[str, object]]:
    """Return the lengths as a table with one row for each side of the split."""
    sides = {"training": numbers.training, "selection": numbers.selection, "held out": numbers.held_out}
    return [
        {
            "side": side,
            **lengths.model_dump(exclude={"over_limit_rows"}),
            "share over limit": f"{lengths.over_limit_share:.1%}",
        }
        for side, lengths in sides.items()
        if lengths is not None
    ]
