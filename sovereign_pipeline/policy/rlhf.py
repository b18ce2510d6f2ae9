"""The methods of reinforcement learning (PPO, RLOO, GRPO), their rewards, and TRL's trainers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from sovereign_pipeline.policy.recipe_model import NotAllowed, RecipeModel, named_twice, nearest_known
from sovereign_pipeline.policy.serving import is_here

LARGEST_BATCH = 64


def changed_fields(section: RecipeModel, *names: str) -> list[str]:
    """Names of those fields that do not have their default."""
    return [name for name in names if getattr(section, name) != type(section).model_fields[name].default]


class Tuning(RecipeModel):
    """What every training has."""

    warmup_steps: int = Field(default=2, ge=0)
    """Steps over which the learning rate rises from zero."""

    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    """Course of the learning rate after `warmup_steps`."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the rows; a fraction ends within a pass."""

    max_steps: int | None = Field(default=None, ge=1)
    """Largest number of optimizer steps; null: as many as `epochs` takes."""

    max_length: int = Field(default=1024, ge=32)
    """Tokens of a pack, and of a row; of a pair, of each reply with its prompt."""

    batch_size: int = Field(default=1, ge=1)
    """Units (packs, or single rows) that a device processes at once; 4 where the method is `kto`. Times
    `gradient_accumulation` and devices it is the effective batch. LoRA loses to full tuning when that is large
    (Thinking Machines 2025, "LoRA Without Regret", section on batch size): stay below 32 rows; above 64 units the
    recipe is refused."""

    gradient_accumulation: int = Field(default=4, ge=1)
    """Batches whose gradients are added up for one step."""

    packing: bool = True
    """Pack several rows into up to `max_length` tokens, kept apart by their positions. Preferences are not packed: all
    replies of a batch are computed in one pass."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: it.effective_batch > LARGEST_BATCH and it.effective_batch,
            f"batch_size × gradient_accumulation is {{1}}, more than {LARGEST_BATCH}; adapters learn worse from large "
            "batches: lower gradient_accumulation",
        ),
    )

    @property
    def effective_batch(self) -> int:
        """Rows of a step on one device."""
        return self.batch_size * self.gradient_accumulation


Column = Literal["response", "subject", "request", "department", "language", "classification"]
"""A column of a document that a tool may be given: scrubbed text, or an organisational fact."""


class Tool(RecipeModel):
    """A Python function or a command that judges replies, run in the sandbox: no network, and no files but its own.

    A function gets a list of mappings, one a reply, with `prompt`, `reply` and the `columns`, and, where `files` are
    named, a mapping of file name to text as a second value: it is called as `function(rows)` or `function(rows,
    files)`, and has the standard library alone. It returns a list with a number from 0 to 1, or None to abstain, for
    each reply, by that reply alone. A command gets the same mappings as lines of JSON on its standard input, and writes
    a line with a number, or null, for each.
    """

    path: Path | None = Field(default=None, examples=["rewards/permits.py"])
    """The program of a function, relative to the data root, or absolute. Either this or `command` is needed."""

    function: str = Field(default="score", pattern=r"^[a-z_][a-z0-9_]*$")
    """The function of it that is called."""

    command: tuple[str, ...] | None = Field(default=None, min_length=1, examples=[["validators/check", "--strict"]])
    """An executable file, relative to the data root, or absolute, and its arguments: a script whose first line names
    its interpreter, or a binary."""

    uses: tuple[Path, ...] = Field(default=(), examples=[["/usr/bin/grep", "/usr/share/perl/5.36"]])
    """Programs and directories of this machine, by absolute paths, that the command needs beside its interpreter and
    the shared libraries of both. They and the interpreter are part of the adapter's identity by their SHA-256."""

    files: tuple[Path, ...] = ()
    """Files that the tool is given, relative to the data root, or absolute: text for a function; a command has them in
    `/tool`, as itself. Program and files are part of the adapter's identity by their SHA-256."""

    columns: tuple[Column, ...] = ()
    """Columns of each reply's document, such as the `response` that the institution sent."""

    seconds: int = Field(default=20, ge=1, le=600)
    """Longest time for one batch: of processor, and three times as much by the clock. A tool that takes longer stops
    the training; it never gives a low reward."""

    memory_mib: int = Field(default=512, ge=64, le=8192)
    """Largest address space of each of its processes."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: (it.path is None) == (it.command is None),
            "a tool is either a function of the program at 'path', or a 'command'",
        ),
        (
            lambda it: it.command is not None and "function" in it.model_fields_set,
            "'function' belongs to a program at 'path', and this tool is a command",
        ),
        (lambda it: it.path is not None and it.uses, "'uses' belongs to a command, and this tool is a function"),
        (
            lambda it: any("\0" in each for each in it.command or ()),
            "an argument of 'command' holds a zero character, which no program can be given",
        ),
        (
            lambda it: named_twice(path.name for path in (it.files if it.command is None else it.named)),
            "two of the tool's files share a name, by which it finds them",
        ),
    )

    @property
    def program(self) -> Path:
        """The file that is run, as the recipe names it."""
        return self.path if self.path is not None else Path((self.command or ("",))[0])

    @property
    def named(self) -> tuple[Path, ...]:
        """Every file of the institution that it consists of."""
        return (self.program, *self.files)


class Reward(RecipeModel):
    """One part of the reward."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40, examples=["right_department"])
    """By which it is logged."""

    tool: Tool | None = Field(
        default=None,
        examples=[{"path": "rewards/permits.py", "function": "opening"}],
        exclude_if=lambda tool: tool is None,
    )
    """What judges a reply; null: `reward_model` does."""

    reward_model: bool = Field(default=False, exclude_if=lambda is_used: not is_used)
    """Whether the line's reward model judges, in place of a tool. The score is the probability that it prefers the
    reply to the one that the institution sent to the same letter, cut to `max_new_tokens`: the sigmoid of the
    difference of both raw scores (Bradley and Terry 1952; Fu et al. 2025, "Reward Shaping to Mitigate Reward Hacking in
    RLHF"). 0.5 is as good as the institution's reply. The log keeps the raw scores."""

    weight: float = Field(default=1.0, gt=0)
    """Its share of the reward, before the weights are made to add up to one. A part that abstains for a reply counts
    for nothing there, and the others' weights are made to add up to one."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: (it.tool is None) != it.reward_model,
            "part {0.name} needs either a tool or reward_model: true",
        ),
    )


class Kl(RecipeModel):
    """How the policy is held to the adapter that it starts from."""

    coefficient: float = Field(default=0.05, ge=0)
    """Weight β of the penalty for each token (Huang 2024: 0.05), with `ppo` at the start. `ppo` and `rloo` take log
    policy − log reference off the reward; `grpo` adds Schulman's estimate k3 to the loss. Above 0 with `rloo` and
    `grpo`."""

    target: float | None = Field(default=6.0, gt=0)
    """`ppo`'s alone: nats of a whole reply that β is steered to (Ziegler 2019, section 2.2: 6); null: β stays, as it
    always does with `rloo` and `grpo`."""

    horizon: int = Field(default=64, ge=1)
    """`ppo`'s alone: replies over which β changes by a fifth at most. Ziegler's 10,000 are for millions of replies."""

    budget: float = Field(default=20.0, gt=0)
    """Nats of a whole reply, mean of an iteration. Above, the training ends, and the best adapter so far is kept."""


class Rollouts(RecipeModel):
    """A vLLM server of this machine that samples the replies of an iteration in place of the trainer.

    It needs vLLM 0.32 or later with the line's base model, adapters that are loaded while it runs, and
    log-probabilities at the temperature (`--logprobs-mode processed_logprobs`). What is learned from is computed by the
    trainer, and so are measurements on held-out prompts.
    """

    url: str = Field(examples=["unix:/run/rollouts/api", "http://127.0.0.1:8000"])
    """Where it listens: a socket or a port of this machine, for prompts leave it nowhere."""

    copies: Path = Field(examples=["/srv/rollouts"])
    """A directory of the trainer's account, by its absolute path, in which the server reads the policy's adapters, by
    the directory's group. Nobody else may change it."""

    at_once: int = Field(default=16, ge=1, le=256)
    """Replies that it is asked for at once."""

    seconds: float = Field(default=600, gt=0)
    """How long one reply may take."""

    cap: float = Field(default=2.0, ge=1)
    """Largest weight of a token whose probability is another one in the trainer than in vLLM: min(π/μ, cap) (truncated
    importance sampling, Ionides 2008; TRL's default is 2)."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: not is_here(it.url), "'url' must be unix:/PATH or http://127.0.0.1:PORT"),
        (lambda it: not it.copies.is_absolute(), "'copies' must begin with /"),
    )


class Rlhf(RecipeModel):
    """Learning from a reward after SFT, with the adapter as SFT left it as the reference.

    It needs an adapter (`lora` or `qlora`) and one device. Dropout is off.
    """

    algorithm: Literal["ppo", "rloo", "grpo"] = "ppo"
    """`ppo` is proximal policy optimisation (Schulman et al. 2017) as InstructGPT uses it (Ouyang et al. 2022). `rloo`
    (Ahmadian et al. 2024) and `grpo` (Shao et al. 2024) have no values: they compare several replies to one prompt.
    Their losses and passes are those of the TRL library, and the record says so; they need `adapter: lora`."""

    reward: tuple[Reward, ...] = Field(min_length=1)
    """What is optimised: one part or several."""

    gold: tuple[Reward, ...] | None = Field(default=None, min_length=1)
    """What is measured on held-out prompts and never optimised, to see the reward being gamed; null: the reward
    itself."""

    iterations: int = Field(default=40, ge=1)
    """Rounds of sampling, scoring and learning."""

    prompts: int = Field(default=8, ge=2, le=256)
    """Prompts of an iteration. Each comes once before any comes again."""

    group: int = Field(default=4, ge=1, le=64)
    """Replies to each of them. On CPUs they share their prompt in `ppo`'s passes, which is faster where prompts are
    longer than replies; `rloo` and `grpo` compare them with one another, and need two at least."""

    max_new_tokens: int = Field(default=48, ge=4)
    """Longest reply that is sampled. Prompts that leave no room for it within `training.sft.max_length` are left
    out."""

    temperature: float = Field(default=0.7, gt=0, le=2)
    """Of the sampling, and of every log-probability (Huang 2024: 0.7). No other change is made to the distribution."""

    rollouts: Rollouts | None = None
    """A vLLM server that samples; null: the trainer samples itself, and a resumed training ends in the same bytes."""

    missing_end_penalty: float = Field(default=1.0, ge=0)
    """Subtracted from the reward of a reply without end of turn (Huang 2024, detail 4.3). 0 where `max_new_tokens` is
    shorter than the institution's replies: it would teach the model to stop short."""

    epochs: int = Field(default=2, ge=1, le=10)
    """Passes over an iteration's replies."""

    minibatches: int = Field(default=2, ge=1)
    """Parts into which a pass is divided, a step of the optimizer each. With `rloo` and `grpo` all of one size."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """Of the adapter, at the start; it falls linearly to zero."""

    value_learning_rate: float = Field(default=1e-3, gt=0)
    """`ppo`'s: of the value head. 1e-2 left the loss of the values a hundred times as large."""

    clip: float = Field(default=0.2, gt=0, lt=1)
    """ε of the clipped ratio (Schulman et al. 2017, equation 7): of a token, with `rloo` of a whole reply. With `ppo`
    also of the clipped value."""

    discount: float = Field(default=1.0, gt=0, le=1)
    """`ppo`'s γ: 1, since a reply is judged as a whole."""

    trace: float = Field(default=1.0, ge=0, le=1)
    """`ppo`'s λ of the generalised advantage estimate (Schulman et al. 2015). 1, as verl and OpenRLHF have it; Huang
    2024 has 0.95. The value head begins at zero, and then any λ below 1 gives a reply's first tokens less advantage
    than its last, whatever the reward was."""

    kl: Kl = Kl()
    """How the policy is held to the adapter that it starts from."""

    measure_every: int = Field(default=5, ge=1)
    """Iterations between two measurements on held-out prompts."""

    measured_prompts: int = Field(default=48, ge=4)
    """Held-out prompts at most. One half is measured while the policy learns and decides which adapter is kept; the
    other half is measured at the start and at the end alone, for the comparison with the parent adapter."""

    patience: int = Field(default=3, ge=1)
    """Measurements in a row at which the held-out reward may lie below its best while the training reward rises."""

    samples: int = Field(default=4, ge=0, le=32)
    """Training prompts whose replies at start, middle and end are kept in the artifact."""

    @field_validator("reward", "gold")
    @classmethod
    def _names_are_distinct(cls, parts: tuple[Reward, ...] | None) -> tuple[Reward, ...] | None:
        names = [part.name for part in parts or ()]
        if len(set(names)) != len(names):
            raise ValueError(f"two parts share a name: {', '.join(names)}")
        if sum(part.reward_model for part in parts or ()) > 1:
            raise ValueError("a line has one reward model, and two parts name it")
        return parts

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: ", ".join(it.set_for_others), "algorithm {0.algorithm} has no {1}"),
        (lambda it: it.minibatches > it.prompts, "there are more minibatches than prompts"),
        (
            lambda it: it.kl_target is not None and it.kl.budget <= it.kl_target,
            "kl.budget must be above kl.target, or the training ends where it is steered to",
        ),
        (
            lambda it: it.algorithm != "ppo" and it.group < 2,
            "{0.algorithm} compares replies to one prompt: it needs a group of two at least",
        ),
        (
            lambda it: it.algorithm != "ppo" and it.replies % it.minibatches,
            "prompts × group, {0.replies}, must be a multiple of minibatches for {0.algorithm}",
        ),
        (
            lambda it: it.algorithm != "ppo" and it.kl.coefficient == 0,
            "kl.coefficient must be above 0 for {0.algorithm}: without it TRL keeps no reference, and kl.budget could "
            "not be watched",
        ),
    )

    @property
    def set_for_others(self) -> list[str]:
        """Keys that are set and belong to another algorithm."""
        of_another = self.keys_of_others
        return [
            *changed_fields(self, *of_another["section"]),
            *(f"kl.{name}" for name in changed_fields(self.kl, *of_another["kl"])),
        ]

    @property
    def keys_of_others(self) -> dict[str, tuple[str, ...]]:
        """Keys that belong to another algorithm than this one: of the section itself, and of `kl`."""
        if self.algorithm == "ppo":
            return {"section": (), "kl": ()}
        return {"section": ("value_learning_rate", "discount", "trace", "rollouts"), "kl": ("target", "horizon")}

    @property
    def replies(self) -> int:
        """Of an iteration."""
        return self.prompts * self.group

    @property
    def kl_target(self) -> float | None:
        """What β is steered to; None: it stays."""
        return self.kl.target if self.algorithm == "ppo" else None

    def identity(self) -> dict[str, Any]:
        """What of the section decides an adapter: its keys without those of another algorithm."""
        content = self.model_dump(mode="json")
        others = self.keys_of_others
        return {
            **{name: value for name, value in content.items() if name not in others["section"]},
            "kl": {name: value for name, value in content["kl"].items() if name not in others["kl"]},
        }

    @property
    def measured(self) -> tuple[Reward, ...]:
        """The parts that are measured on held-out prompts."""
        return self.gold or self.reward

    @property
    def uses_reward_model(self) -> bool:
        """Whether the line's reward model judges in any part, of what is optimised or of what is measured."""
        return any(part.reward_model for part in self._parts)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Every tool of the section."""
        return tuple(part.tool for part in self._parts if part.tool is not None)

    @property
    def _parts(self) -> tuple[Reward, ...]:
        return (*self.reward, *(self.gold or ()))


class RewardModel(Tuning):
    """A LoRA of the shape in `training.sft` and a scalar head on the line's base model, trained by TRL's RewardTrainer.

    It learns from the pairs of the preference dataset to score the chosen reply higher than the rejected one (Bradley
    and Terry 1952; Ouyang et al. 2022, section 3.5). It is measured on held-out pairs, which it never learns from.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    """Highest learning rate, of adapter and head. 1e-4 (TRL's default for reward models)."""

    centring: float = Field(default=0.01, ge=0)
    """Weight of the squared sum of both scores of a pair, which keeps scores around zero. 0.01 (Eisenstein et al. 2023,
    "Helping or Herding?", as in TRL's guide); 0: none."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: changed_fields(it, "packing"), "a reward model has no packing: TRL pads the rows of a batch"),
    )


TrlArgument = float | int | bool | str | tuple[str | float, ...]
"""A value of an argument."""

OPTIMIZER_ARGUMENTS = ("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "weight_decay")
"""Of every trainer; the recipe has no keys of its own for them."""


@dataclass(frozen=True)
class TrlTrainer:
    """A trainer of TRL that learns from preference pairs with one model on one device, and without generating."""

    stability: Literal["stable", "experimental"]
    """TRL's own word. An experimental trainer may change or go with any release of TRL."""
    arguments: tuple[str, ...]
    """Names of the arguments that shape its loss."""
    has_reference: bool
    loss_types: tuple[str, ...] = ()
    """Its values of `loss_type`; others would fail at the first step only."""


TRAINERS = {
    "orpo": TrlTrainer("experimental", ("beta",), has_reference=False),
    "cpo": TrlTrainer(
        "experimental",
        ("alpha", "beta", "cpo_alpha", "label_smoothing", "loss_type", "simpo_gamma"),
        has_reference=False,
        loss_types=("sigmoid", "hinge", "ipo", "simpo", "alphapo"),
    ),
    "dpo": TrlTrainer(
        "stable",
        (
            "beta",
            "discopop_tau",
            "f_alpha_divergence_coef",
            "f_divergence_type",
            "label_smoothing",
            "ld_alpha",
            "loss_type",
            "loss_weights",
            "use_weighting",
        ),
        has_reference=True,
        loss_types=(
            *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"),
            *("aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
        ),
    ),
}

_FROM_A_REWARD = "it learns from replies that it generates and from their reward, which are no preference pairs"
_FROM_A_TEACHER = "it learns from another model, the teacher, which a line does not have"
_FROM_A_SERVER = "it needs a server, and a trainer opens no connection"

REFUSED_TRAINERS = {
    **dict.fromkeys(("grpo", "rloo", "gmpo", "a2po", "online_dpo"), _FROM_A_REWARD),
    **dict.fromkeys(("distillation", "gkd", "gold", "iw_opd", "sdft", "sdpo"), _FROM_A_TEACHER),
    **dict.fromkeys(
        ("async_grpo", "async_distillation", "server_distillation", "harbor", "openreward"), _FROM_A_SERVER
    ),
    "kto": "method: kto is built in",
    "reward": "it makes a reward model, not an adapter that replies",
    "sft": "the stage before it is SFT",
    "tpo": "it needs a third reply, and a pair has two",
}
"""Trainers of TRL that cannot learn here from pairs, and why."""

_RECIPE_KEYS = {
    "bf16": "training.sft.precision",
    "data_seed": "training.seed",
    "fp16": "training.sft.precision",
    "gradient_accumulation_steps": "training.preference.gradient_accumulation",
    "gradient_checkpointing": "training.sft.gradient_checkpointing",
    "learning_rate": "training.preference.learning_rate",
    "lr_scheduler_type": "training.preference.scheduler",
    "max_length": "training.preference.max_length",
    "max_steps": "training.preference.max_steps",
    "num_train_epochs": "training.preference.epochs",
    "optim": "training.sft.optimizer",
    "per_device_train_batch_size": "training.preference.batch_size",
    "save_steps": "training.checkpoints.every_steps",
    "save_total_limit": "training.checkpoints.keep",
    "seed": "training.seed",
    "warmup_steps": "training.preference.warmup_steps",
}
"""Argument of TRL -> the key of the recipe that decides it."""


def check_arguments(trainer: str | None, arguments: Mapping[str, TrlArgument]) -> None:
    """Raise ValueError, in words for the recipe's author, for a trainer or an argument that is not on the list."""
    known = sorted(TRAINERS)
    if trainer is None:
        raise ValueError(f"method trl needs a trainer: {', '.join(known)}")
    if trainer in REFUSED_TRAINERS:
        raise ValueError(f"trainer {trainer} of TRL is not for preference pairs: {REFUSED_TRAINERS[trainer]}")
    if trainer not in TRAINERS:
        raise ValueError(f"'{trainer}' is no trainer of TRL that is run here; {nearest_known(trainer, known)}")
    taken = sorted((*TRAINERS[trainer].arguments, *OPTIMIZER_ARGUMENTS))
    for name, value in arguments.items():
        if name in _RECIPE_KEYS:
            raise ValueError(f"argument '{name}' is decided by {_RECIPE_KEYS[name]}")
        if name not in taken:
            raise ValueError(f"trainer {trainer} is given no argument '{name}' here; {nearest_known(name, taken)}")
        if not _is_of_its_kind(name, value):
            raise ValueError(f"argument '{name}' must be {_kind(name)}")
    losses = TRAINERS[trainer].loss_types
    for loss in _parts(arguments.get("loss_type", ())):
        if loss not in losses:
            raise ValueError(f"'{loss}' is no loss_type of trainer {trainer}; {nearest_known(str(loss), losses)}")


def _kind(name: str) -> str:
    if name in ("loss_type", "f_divergence_type"):
        return "a text"
    if name == "use_weighting":
        return "true or false"
    if name == "loss_weights":
        return "a list of numbers"
    return "a number above 0" if name == "beta" else "a number"


def _is_of_its_kind(name: str, value: TrlArgument) -> bool:
    """TRL's argument classes take any value, and fail at the first step or train something else."""
    kind = _kind(name)
    if kind == "a text":
        return all(isinstance(each, str) for each in _parts(value))
    if kind == "true or false":
        return isinstance(value, bool)
    if isinstance(value, tuple) != (kind == "a list of numbers"):
        return False
    numbers = [each for each in _parts(value) if isinstance(each, int | float) and not isinstance(each, bool)]
    finite = len(numbers) == len(_parts(value)) and all(math.isfinite(each) for each in numbers)
    return finite and (name != "beta" or numbers[0] > 0)


def _parts(value: TrlArgument) -> tuple[str | float, ...]:
    return value if isinstance(value, tuple) else (value,)
