"""Compute the reward of a reply. The reward is the weighted mean of the scores that tools and the line's reward model
give the reply. Tools are functions and commands that run in the sandbox.

If a tool fails or is too slow, an error is raised. With a low reward instead, the policy would learn from the tool's
faults.

A reward model's raw score is in logits, and only differences between replies to the same prompt have a meaning (Bradley
and Terry 1952). The raw score of a reply is therefore compared with the raw score of the institution's reply. The
sigmoid of the difference is the probability that the reward model prefers the reply. The sigmoid is flat for scores far
above the score of the institution's reply, where a reward model is least reliable (Fu et al. 2025, arXiv 2502.18770).
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError, TrainingFailed
from sovereign_pipeline.base.files import digest_of, file_sha256, short
from sovereign_pipeline.base.sandbox import (
    CommandEnd,
    Limits,
    assert_may_be_shown,
    call_function,
    in_tool,
    interpreter_of,
    parts_of,
    run_command,
)
from sovereign_pipeline.base.sandbox_child import PACKAGES
from sovereign_pipeline.policy.rlhf import Reward, Rlhf, Tool
from sovereign_pipeline.training.job import RewardModelGiven, TrainingJob, mark_of
from sovereign_pipeline.training.reward_model import HEAD, Scorer, read_head, scoring_config
from sovereign_pipeline.training.rows import Completion, encode_completion

Item = TypeVar("Item")

LARGEST = 64 << 20
"""Maximum total size of a command and its files, in bytes. All of them are copied into the sandbox for each run."""
SCORE = re.compile(rb"(null)|(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
"""Pattern of a score: null, or a JSON number that is not negative."""
CORRECT = "Correct the tool, or make it write null for replies that it cannot judge. A failure is never a low reward."
"""Hint for an error about a command that failed or wrote invalid output."""


def machine_digests(tool: Tool, program: bytes) -> dict[str, str]:
    """Return a mapping of path to SHA-256, for the files of this machine that the command needs: its interpreter, and
    the paths in `uses` of the recipe. Shared libraries are excluded. Raises InputError if a path is missing, or if a
    command must not see the path."""
    interpreter = interpreter_of(str(tool.program), program)
    paths = [*([interpreter] if interpreter is not None else []), *tool.uses]
    return {str(path): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    """Return the digest of a file, or of all files below a directory. Installed packages below the directory are
    excluded, because the sandbox hides them."""
    assert_may_be_shown(path)
    try:
        if not path.is_dir():
            return file_sha256(path)
        inside = ((each.relative_to(path), each) for each in sorted(path.rglob("*")))
        return digest_of(
            {
                str(name): f"-> {each.readlink()}" if each.is_symlink() else file_sha256(each)
                for name, each in inside
                if name.parts[0] not in PACKAGES and (each.is_symlink() or each.is_file())
            }
        )
    except OSError as error:
        raise InputError(
            f"{path}: a command in training.rlhf uses this path, but a file cannot be read ({type(error).__name__}).",
            "Make the file readable, or use another path.",
        ) from None


class CommandTool:
    """Runs a command of a tool in the sandbox."""

    def __init__(self, tool: Tool, files: Mapping[str, bytes], code: Mapping[str, str]) -> None:
        """Prepare the command. files: mapping of file name to content, for the command and its files. code: mapping of
        path to digest, as `code_digests` returns it. Raises IntegrityError if the digest of a file on this machine
        differs from `code`; InputError if `files` are larger than `LARGEST`; and the errors of `machine_digests`."""
        assert tool.command is not None
        program = files[tool.program.name]
        if sum(map(len, files.values())) > LARGEST:
            raise InputError(
                f"{tool.program}: the command and its files are larger than {LARGEST >> 20} MiB.", "Use smaller files."
            )
        self._tool = tool
        self.machine = self._machine(program, code)
        """Mapping of path to SHA-256, for the files of this machine that the command needs."""
        self._command = [in_tool(tool.program.name), *tool.command[1:]]
        self._files = files
        self._shown = parts_of(tool.program.name, program, tool.uses)

    def run(self, rows: Sequence[Mapping[str, str]], limits: Limits) -> CommandEnd:
        """Run the command with one JSON line per row as its input. Raises SandboxUnavailable if this machine cannot run
        the sandbox, and IntegrityError if a file of this machine changed. The files are checked at each run, because
        RLHF takes hours and a package may be upgraded meanwhile."""
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
        given = "".join(lines).encode(errors="replace").decode()
        end = run_command(self._command, self._files, self._shown, given, limits)
        self._machine(self._files[self._tool.program.name], self.machine)
        return end

    def _machine(self, program: bytes, code: Mapping[str, str]) -> dict[str, str]:
        found = machine_digests(self._tool, program)
        for path, digest in found.items():
            if digest != code.get(path):
                raise IntegrityError(
                    f"{path}: the digest on this machine is {short(digest)}, but the training was prepared with "
                    f"a file that has a different digest.",
                    "Train on the machine that prepared the training, or run again.",
                )
        return found


def scores_in(end: CommandEnd, replies: int, limits: Limits, place: str) -> list[float | None]:
    """Parse the scores that a command wrote: for each reply a line with a number from 0 to 1, or `null` (None). Raises
    TrainingFailed if the output does not have this form or reaches its size limit, or if the command failed. The
    message begins with `place`. It quotes no line, because the output may contain replies."""
    if end.status != 0:
        raise TrainingFailed(f"{place}: the tool {_how(end.status)}.", CORRECT)
    if len(end.output) >= limits.file_bytes:
        raise TrainingFailed(f"{place}: the tool reached the limit of {limits.file_bytes} bytes of output.", CORRECT)
    lines = end.output.removesuffix(b"\n").split(b"\n") if end.output else []
    if len(lines) != replies:
        raise TrainingFailed(
            f"{place}: the tool wrote {len(lines)} lines to its standard output, but must write one for each reply.",
            CORRECT,
        )
    return [_score(line.strip(), number, place) for number, line in enumerate(lines, start=1)]


def _score(line: bytes, number: int, place: str) -> float | None:
    found = SCORE.fullmatch(line)
    score = None if found is None or found[1] else float(line)
    if found is None or (score is not None and score > 1):
        raise TrainingFailed(
            f"{place}: line {number} of the tool's output is neither a number from 0 to 1 nor null.", CORRECT
        )
    return score


def _how(status: int | None) -> str:
    if status is None:
        return "was ended with its sandbox"
    return f"ended with exit status {status}" if status > 0 else f"was ended by signal {-status}"


CLOCK_FACTOR = 3
"""Wall clock limit divided by CPU time limit. The factor is large, so that a tool does not fail only because the
machine is busy."""


@dataclass(frozen=True)
class Reply:
    """A reply to score, with its prompt."""

    prompt: str
    """Whole user message, or the text of all messages before the reply."""
    text: str
    columns: Mapping[str, str]
    """Columns of the prompt's document. A tool gets the columns that the recipe lists for it."""
    ids: tuple[int, ...] | None = None
    """Token ids as sampled from the policy, including the end of turn if there is one. None if the text was not
    sampled; the text then counts as a complete reply."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Messages of a conversation, with the institution's reply; empty if the prompt is a single request."""
    tools: tuple[Mapping[str, Any], ...] = ()


def code_digests(data: Path, rlhf: Rlhf) -> dict[str, str]:
    """Return a mapping of path to SHA-256, for every program and file of the tools in the recipe's rlhf section, and
    for the files of this machine that commands need. Raises NotFoundError if a program or file of a tool is missing,
    and the errors of `machine_digests`."""
    found: dict[str, str] = {}
    for path in _named(rlhf):
        file = data / path
        if not file.is_file():
            raise NotFoundError(
                f"{file}: a tool in training.rlhf names this file, but the file is missing.", "Correct the path."
            )
        found[str(path)] = file_sha256(file)
    for tool in rlhf.tools:
        if tool.command is not None:
            found |= machine_digests(tool, (data / tool.program).read_bytes())
    return found


def _named(rlhf: Rlhf) -> list[Path]:
    return [*dict.fromkeys(path for tool in rlhf.tools for path in tool.named)]


def copy_code(data: Path, rlhf: Rlhf, directory: Path) -> dict[str, str]:
    """Create the directory, and copy every program and file of the tools into it. A copy's name is its SHA-256. Returns
    the result of `code_digests`, with the digests of the copies. Raises the errors of `code_digests`."""
    directory.mkdir()
    found = code_digests(data, rlhf)
    for path in _named(rlhf):
        content = (data / path).read_bytes()
        found[str(path)] = sha256(content).hexdigest()
        (directory / found[str(path)]).write_bytes(content)
    return found


class ScoreCache:
    """A file of scores, so that a resumed job does not compute a score again. The key of a score is the digest of
    everything that affects the score. Each line has a MAC (`job.mark_of`). A line without a valid MAC, such as an
    incomplete line of a killed process, is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = path.read_bytes() if path.is_file() else b""
        self._scores = dict(filter(None, map(_marked, content.splitlines())))
        if content and (content.count(b"\n") != len(self._scores) or not content.endswith(b"\n")):
            path.unlink()
            self._add(self._scores)

    def scores(
        self, keys: Sequence[str], items: Sequence[Item], compute: Callable[[list[Item]], Sequence[float | None]]
    ) -> list[float | None]:
        """Return the score of each item. keys: key of each item in the cache. If items have no cached score, `compute`
        is called once, with these items."""
        unknown = {key: item for key, item in zip(keys, items, strict=True) if key not in self._scores}
        if unknown:
            self._add(dict(zip(unknown, compute([*unknown.values()]), strict=True)))
        return [self._scores[key] for key in keys]

    def _add(self, scores: Mapping[str, float | None]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as stream:
            stream.writelines(
                json.dumps([key, score, mark_of("score", [key, score])]).encode() + b"\n"
                for key, score in scores.items()
            )
        self._scores.update(scores)


def _marked(line: bytes) -> tuple[str, float | None] | None:
    """Return the key and the score of a line; None if the line has no valid MAC."""
    try:
        key, score, mark = json.loads(line)
        return (key, score) if mark == mark_of("score", [key, score]) else None
    except (ValueError, TypeError):
        return None


class ToolRunner:
    """Scores replies with a tool, and caches the scores."""

    def __init__(self, name: str, tool: Tool, code: Mapping[str, str], directory: Path, cache: Path) -> None:
        """Prepare the tool. name: name of the reward's part that uses the tool. code, directory: see `copy_code`.
        cache: directory of the cached scores. Raises IntegrityError if the digest of a copy differs from `code`;
        TrainingFailed if a function's program or file is not UTF-8; and the errors of `CommandTool`."""
        self.name = name
        self._tool = tool
        identity: dict[str, Any] = {
            "program": code[str(tool.program)],
            "files": {path.name: code[str(path)] for path in tool.files},
            "columns": sorted(tool.columns),
        }
        self._command: CommandTool | None = None
        if tool.command is None:
            self._program = _text(directory, code, tool.program)
            self._files = {path.name: _text(directory, code, path) for path in tool.files}
            identity["function"] = tool.function
        else:
            self._command = CommandTool(tool, {path.name: _read(directory, code, path) for path in tool.named}, code)
            identity |= {"command": tool.command, "machine": self._command.machine}
        self.identity = digest_of(identity)
        """Digest of everything that affects the tool's scores, except the replies."""
        self._cache = ScoreCache(cache / f"{self.identity}.jsonl")

    def scores(self, replies: Sequence[Reply]) -> list[float | None]:
        """Return a score from 0 to 1 for each reply, or None if the tool abstains. Scores come from the cache or, for
        all other replies, from one run of the tool. Raises TrainingFailed if the tool fails, takes too long or returns
        an invalid score; SandboxUnavailable if this machine cannot run the tool; IntegrityError if a file of this
        machine that the tool needs changed."""
        rows = [self._row(reply) for reply in replies]
        keys = [digest_of([self.identity, row]) for row in rows]
        return self._cache.scores(keys, rows, self._run)

    def _row(self, reply: Reply) -> dict[str, str]:
        columns: dict[str, str] = {name: reply.columns[name] for name in self._tool.columns}
        return {**columns, "prompt": reply.prompt, "reply": reply.text}

    def _run(self, rows: list[dict[str, str]]) -> list[float | None]:
        limits = Limits(
            cpu_seconds=self._tool.seconds,
            wall_seconds=CLOCK_FACTOR * self._tool.seconds,
            memory_bytes=self._tool.memory_mib << 20,
        )
        place = f"training.rlhf, tool of '{self.name}' ({self._tool.program}), on {len(rows)} replies"
        if self._command is not None:
            end = self._command.run(rows, limits)
            if end.ending == "timeout":
                raise self._too_slow(place)
            return scores_in(end, len(rows), limits, place)
        # The sandbox passes a single value, so a function of two arguments is wrapped into a function of one argument.
        program, function, argument = self._program, self._tool.function, rows
        handed: Any = argument
        if self._files:
            program += f"\n\ndef _called(given):\n    return {function}(given[0], given[1])\n"
            function, handed = "_called", [argument, self._files]
        call = call_function(program, function, handed, limits)
        if call.ending == "timeout":
            raise self._too_slow(place)
        if call.ending == "raised":
            raise TrainingFailed(
                f"{place}: the tool failed with {call.where}.",
                "Correct the tool, or make it return None for replies that it cannot judge. A failure never counts as "
                "a low reward.",
            )
        if not isinstance(call.value, list) or len(call.value) != len(rows) or not all(map(_is_score, call.value)):
            raise TrainingFailed(
                f"{place}: the tool must return a list with a number from 0 to 1, or None, for each reply.",
                "Correct the tool.",
            )
        return [None if score is None else float(score) for score in call.value]

    def _too_slow(self, place: str) -> TrainingFailed:
        return TrainingFailed(
            f"{place}: the tool did not end within {self._tool.seconds} s of CPU time, or {CLOCK_FACTOR} times as much "
            f"wall clock time.",
            "Make the tool faster, or raise the tool's seconds. A timeout never counts as a low reward.",
        )


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)


def _text(directory: Path, code: Mapping[str, str], path: Path) -> str:
    try:
        return _read(directory, code, path).decode()
    except UnicodeDecodeError:
        raise TrainingFailed(f"{path}: a function's program and files must be text in UTF-8.", "Use UTF-8.") from None


def _read(directory: Path, code: Mapping[str, str], path: Path) -> bytes:
    content = (directory / code[str(path)]).read_bytes()
    if sha256(content).hexdigest() != code[str(path)]:
        raise IntegrityError(
            f"{directory}: the digest of the copy of {path} is not {short(code[str(path)])}.", "Run again."
        )
    return content


REWARD = "reward"
"""Name of the reward model's adapter in PEFT."""


@dataclass(frozen=True)
class Preferred:
    """The scores that a reward model gives a reply."""

    probability: float
    """Probability that the reward model prefers this reply to the institution's own reply, from 0 to 1."""
    raw: float
    """Raw score of the reply, in logits."""


class RewardAdapter:
    """Scores replies with the line's reward model. The reward model's adapter is added to the policy's base model."""

    def __init__(self, model: Any, tokenizer: Any, job: TrainingJob) -> None:
        """Add the reward model's adapter to the policy. model: PEFT model with the policy's adapter. The base model
        must be the one that the reward model was trained on.

        Raises IntegrityError if the reward model's tensors do not fit the base model.
        """
        assert job.reward is not None and job.reward.reward_model is not None
        given = job.reward.reward_model
        self.identity = given.digest
        """Digest of everything that affects the reward model's scores, except the replies."""
        self._model, self._tokenizer, self._eos_ids = model, tokenizer, job.eos_ids
        self._most_tokens = job.reward.rlhf.max_new_tokens
        with _as_it_was(model):
            _load(model, given)
        self._scorer = Scorer(
            model.get_base_model().get_decoder(), read_head(given.directory, model.device), job.sft.precision
        )
        self._cache = ScoreCache(job.reward.cache / f"{self.identity}.jsonl")
        self._own: dict[str, Completion] = {}
        """Cache of `_institutions`: mapping of a digest of prompt, reply and tools to the institution's reply."""

    def judge(self, replies: Sequence[Reply]) -> list[Preferred]:
        """Score each reply with the reward model. Raises TrainingFailed if a score is not finite."""
        given = [self._given(reply) for reply in replies]
        own = [self._institutions(reply) for reply in replies]
        scores = self._scores([*given, *own])
        pairs = zip(scores[: len(given)], scores[len(given) :], strict=True)
        return [Preferred(_sigmoid(raw - of_own), raw) for raw, of_own in pairs]

    def _scores(self, completions: Sequence[Completion]) -> list[float]:
        """Return the raw score of each completion. Scores are cached by token ids."""
        keys = [digest_of([self.identity, each.ids]) for each in completions]
        return cast(list[float], self._cache.scores(keys, completions, self._computed))

    def _computed(self, completions: list[Completion]) -> list[float]:
        with _as_it_was(self._model):
            self._model.set_adapter(REWARD)
            self._model.eval()
            found = self._scorer.scores(completions)
        if not all(map(math.isfinite, found)):
            raise TrainingFailed(
                f"The reward model gives {sum(not math.isfinite(each) for each in found)} of {len(found)} replies a "
                f"score that is not finite.",
                "Train the reward model again, with a lower training.reward_model.learning_rate or precision: float32.",
            )
        return found

    def _given(self, reply: Reply) -> Completion:
        """Return the reply as a completion. A sampled reply keeps its token ids. Any other text is encoded as a whole
        reply with an end of turn."""
        if reply.ids is not None:
            return Completion(self._institutions(reply).prompt_ids, list(reply.ids))
        return self._encoded(reply, reply.text)

    def _institutions(self, reply: Reply) -> Completion:
        """Return the institution's own reply to the same prompt, as a completion."""
        own = reply.messages[-1:] or reply.columns["response"]
        key = digest_of([reply.prompt, own, reply.messages, reply.tools])
        if key not in self._own:
            self._own[key] = self._encoded(reply, own)
        return self._own[key]

    def _encoded(self, reply: Reply, text: str | Sequence[Mapping[str, Any]]) -> Completion:
        """Encode a text as a reply to the prompt of `reply`, as in the training of reward models. The result is cut to
        the number of tokens that the policy may write."""
        prompt = reply.messages[:-1] or reply.prompt
        whole = encode_completion(self._tokenizer, "of a reward", prompt, text, self._eos_ids, reply.tools)
        return Completion(whole.prompt_ids, whole.reply_ids[: self._most_tokens])


def _load(model: Any, given: RewardModelGiven) -> None:
    """Add the reward model's adapter to the model. Raises IntegrityError if a tensor is missing or fits no layer; PEFT
    would only warn."""
    model.add_adapter(REWARD, scoring_config(given.directory))
    result = model.load_adapter(str(given.directory), adapter_name=REWARD, is_trainable=False)
    strange = [name for name in result.unexpected_keys if not name.endswith(HEAD.removeprefix("base_model.model."))]
    if result.missing_keys or strange:
        raise IntegrityError(
            f"{given.directory}: {len(result.missing_keys)} tensors of the reward model are missing and {len(strange)} "
            f"belong to no layer of the base model.",
            "Materialize reward_model again.",
        )


@contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """After the block, restore the active adapter, each parameter's `requires_grad`, and the model's mode."""
    active, was_training = model.active_adapter, model.training
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    try:
        yield
    finally:
        model.set_adapter(active)
        model.train(was_training)
        for name, each in model.named_parameters():
            each.requires_grad_(name in trained)


def _sigmoid(logit: float) -> float:
    """Compute the sigmoid without overflow for any logit."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


@dataclass(frozen=True)
class Score:
    """The reward of a reply."""

    total: float | None
    """Reward from 0 to 1; None if every part of the reward abstains."""
    parts: Mapping[str, float | None]
    raw: Mapping[str, float] = field(default_factory=dict)
    """Mapping of part name to raw score in logits, for each part of the reward that uses a reward model."""

    @property
    def judged(self) -> list[str]:
        """Names of the parts that do not abstain."""
        return [name for name, score in self.parts.items() if score is not None]


def rewards_of(job: TrainingJob, model: Any, tokenizer: Any) -> tuple["Rewards", "Rewards"]:
    """Return the rewards that the job optimises, and the gold rewards that it measures on held-out prompts. Without
    `gold` in the recipe, both are the same object.

    If a reward uses a reward model, adds the reward model's adapter to `model`, the policy as a PEFT model. The active
    adapter, and which parameters are trainable, do not change.
    """
    assert job.reward is not None
    given, rlhf = job.reward, job.reward.rlhf
    adapter = RewardAdapter(model, tokenizer, job) if rlhf.uses_reward_model else None
    rewards = Rewards(rlhf.reward, given.code, given.code_directory, given.cache, adapter)
    if rlhf.gold is None:
        return rewards, rewards
    return rewards, Rewards(rlhf.gold, given.code, given.code_directory, given.cache, adapter)


class Rewards:
    """Scores replies with all parts of a reward."""

    def __init__(
        self,
        parts: Sequence[Reward],
        code: Mapping[str, str],
        directory: Path,
        cache: Path,
        reward_model: RewardAdapter | None = None,
    ) -> None:
        """Prepare the parts of the reward. code, directory, cache: see `ToolRunner`. reward_model: required if a part
        uses a reward model."""
        self._weights = {part.name: part.weight for part in parts}
        self._tools = {
            part.name: ToolRunner(part.name, part.tool, code, directory, cache)
            for part in parts
            if part.tool is not None
        }
        self._models = {part.name: reward_model for part in parts if part.reward_model and reward_model is not None}
        if unjudged := self._weights.keys() - self._tools.keys() - self._models.keys():
            raise ValueError(f"{', '.join(unjudged)}: judged by a reward model, but reward_model is None")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._weights)

    @property
    def identities(self) -> dict[str, str]:
        """Mapping of part name to the digest of everything that affects the part's scores, except the replies."""
        found = {name: tool.identity for name, tool in self._tools.items()}
        found |= {name: model.identity for name, model in self._models.items()}
        return {name: found[name] for name in self._weights}

    def judge(self, replies: Sequence[Reply]) -> list[Score]:
        """Score each reply. Raises the errors of `ToolRunner.scores` and `RewardAdapter.judge`."""
        by_part: dict[str, Sequence[float | None]] = {name: tool.scores(replies) for name, tool in self._tools.items()}
        preferred = {name: model.judge(replies) for name, model in self._models.items()}
        by_part |= {name: [each.probability for each in found] for name, found in preferred.items()}
        return [
            self._score(
                {name: by_part[name][place] for name in self._weights},
                {name: found[place].raw for name, found in preferred.items()},
            )
            for place in range(len(replies))
        ]

    def _score(self, parts: dict[str, float | None], raw: dict[str, float]) -> Score:
        judged = [name for name, score in parts.items() if score is not None]
        return Score(self._mean(parts, judged) if judged else None, parts, raw)

    def total_over(self, names: Sequence[str], score: Score) -> float | None:
        """Return a reply's reward over these parts alone; None if one of them abstained."""
        if not {*names} <= {*score.judged}:
            return None
        return score.total if [*names] == score.judged else self._mean(score.parts, names)

    def _mean(self, parts: Mapping[str, float | None], names: Sequence[str]) -> float:
        weight = sum(self._weights[name] for name in names)
        return sum(self._weights[name] * (parts[name] or 0.0) for name in names) / weight
