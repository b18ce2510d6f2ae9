"""Define a recipe's reinforcement learning (PPO, RLOO, GRPO), its rewards, and the supported trainers of TRL."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, field_validator

from sovereign_pipeline.policy.recipe_model import NotAllowed, RecipeModel, named_twice, nearest_known
from sovereign_pipeline.policy.serving import is_here

LARGEST_BATCH = 64
LARGEST_WEIGHT = 2.0
"""Default of `Rollouts.cap`, the cap of a token's importance weight. Also the cap if the trainer itself samples in
bfloat16."""


def changed_fields(section: RecipeModel, *names: str) -> list[str]:
    """Return those of `names` whose fields have a value other than their default."""
    return [name for name in names if getattr(section, name) != type(section).model_fields[name].default]


class Tuning(RecipeModel):
    """The settings that every training stage has."""

    warmup_steps: int = Field(default=2, ge=0)
    """Steps over which the learning rate rises from zero."""

    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    """How the learning rate changes after `warmup_steps`."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the rows. With a fraction, training ends within a pass."""

    max_steps: int | None = Field(default=None, ge=1)
    """Maximum number of optimizer steps; null: as many as `epochs` takes."""

    max_length: int = Field(default=1024, ge=32)
    """Maximum length, in tokens, of a pack, of a row, or of each reply of a pair with its prompt."""

    batch_size: int = Field(default=1, ge=1)
    """Number of units (packs, or single rows) that a device processes at once; default for `kto`: 4. The effective
    batch is this number times `gradient_accumulation` times the number of devices. With a large effective batch, LoRA
    learns worse than full tuning (Thinking Machines 2025, "LoRA Without Regret", section on batch size): stay below 32
    rows. A recipe with more than 64 units per device and step is rejected."""

    gradient_accumulation: int = Field(default=4, ge=1)
    """Number of batches whose gradients are summed for one optimizer step."""

    packing: bool = True
    """Pack several rows into a sequence of up to `max_length` tokens; position ids separate the rows. Preferences are
    not packed: all replies of a batch are computed in one pass."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: it.effective_batch > LARGEST_BATCH and it.effective_batch,
            f"batch_size × gradient_accumulation is {{1}}, more than {LARGEST_BATCH}; adapters learn worse from large "
            "batches: lower gradient_accumulation",
        ),
    )

    @property
    def effective_batch(self) -> int:
        """Number of units (packs or rows) in an optimizer step on one device."""
        return self.batch_size * self.gradient_accumulation


Column = Literal["response", "subject", "request", "department", "language", "classification"]
"""A column of a document that is passed to a tool: scrubbed text, or an organisational fact."""


class Tool(RecipeModel):
    """A Python function or a command that scores replies. It runs in the sandbox, without network, and sees only its
    own files.

    A function is called as `function(rows)`, or as `function(rows, files)` if `files` is set. `rows` has one mapping
    for each reply, with `prompt`, `reply` and the `columns`. `files` maps file names to texts. The function can use
    only the standard library. It returns a list with one score for each reply: a number from 0 to 1, or None to
    abstain. A score must depend on its reply alone. A command reads the same mappings from its standard input, one line
    of JSON for each reply. For each reply it writes one line with a number, or with null to abstain.
    """

    path: Path | None = Field(default=None, examples=["rewards/permits.py"])
    """Python file with the function, relative to the data root, or absolute. Either `path` or `command` is required."""

    function: str = Field(default="score", pattern=r"^[a-z_][a-z0-9_]*$")
    """Name of the function in `path` that is called."""

    command: tuple[str, ...] | None = Field(default=None, min_length=1, examples=[["validators/check", "--strict"]])
    """Executable file, relative to the data root, or absolute, and its arguments. The file is a binary, or a script
    with an interpreter in its first line."""

    uses: tuple[Path, ...] = Field(default=(), examples=[["/usr/bin/grep", "/usr/share/perl/5.36"]])
    """Absolute paths of programs and directories on this machine that the command needs. The interpreter and all shared
    libraries of the command are found automatically. The SHA-256 digests of the listed files and of the interpreter are
    part of the adapter's identity."""

    files: tuple[Path, ...] = ()
    """Files for the tool, relative to the data root, or absolute. A function gets the files as text; a command finds
    them in its directory, `/tool`. The SHA-256 digests of program and files are part of the adapter's identity."""

    classification: str | None = Field(default=None, examples=["PUBLIC"], exclude_if=lambda level: level is None)
    """Classification level of the program and its files; required with `files`. The adapter has at least this level."""

    columns: tuple[Column, ...] = ()
    """Columns of each reply's document that the tool gets, such as the `response` that the institution sent."""

    seconds: int = Field(default=20, ge=1, le=600)
    """Maximum processor time for one batch, in seconds; the wall-clock limit is three times as much. If a tool takes
    longer, the training stops with an error, so that a slow tool does not lower the reward."""

    memory_mib: int = Field(default=512, ge=64, le=8192)
    """Maximum address space of each of the tool's processes, in MiB."""

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: (it.path is None) == (it.command is None),
            "a tool is either a function of the program at 'path', or a 'command'",
        ),
        (
            lambda it: it.command is not None and "function" in it.model_fields_set,
            "'function' is for a program at 'path', but this tool is a command",
        ),
        (lambda it: it.path is not None and it.uses, "'uses' is for a command, but this tool is a function"),
        (
            lambda it: it.files and it.classification is None,
            "'files' can teach the adapter what they contain, so 'classification' must state their level",
        ),
        (
            lambda it: any("\0" in each for each in it.command or ()),
            "an argument of 'command' contains a NUL character, which cannot be passed to a program",
        ),
        (
            lambda it: named_twice(path.name for path in (it.files if it.command is None else it.named)),
            "two of the tool's files share a name: rename one of them",
        ),
    )

    @property
    def program(self) -> Path:
        """Path of the file that is run, as written in the recipe."""
        return self.path if self.path is not None else Path((self.command or ("",))[0])

    @property
    def named(self) -> tuple[Path, ...]:
        """The institution's files that make up the tool."""
        return (self.program, *self.files)


class Reward(RecipeModel):
    """One part of the reward."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40, examples=["right_department"])
    """Name of the part in the log."""

    tool: Tool | None = Field(
        default=None,
        examples=[{"path": "rewards/permits.py", "function": "opening"}],
        exclude_if=lambda tool: tool is None,
    )
    """Tool that scores a reply. Null: the reward model scores the reply (`reward_model: true`)."""

    reward_model: bool = Field(default=False, exclude_if=lambda is_used: not is_used)
    """Score replies with the line's reward model, instead of with a tool. The score is the probability that the model
    prefers the reply to the institution's own reply to the same letter, truncated to `max_new_tokens`. This probability
    is the sigmoid of the difference of the two raw scores (Bradley and Terry 1952; Fu et al. 2025, "Reward Shaping to
    Mitigate Reward Hacking in RLHF"). 0.5 means as good as the institution's reply. The raw scores are in the log."""

    weight: float = Field(default=1.0, gt=0)
    """Weight of the part; the weights are normalised to add up to one. If a part abstains for a reply, the weights of
    the remaining parts are normalised again for this reply."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: (it.tool is None) != it.reward_model, "part {0.name} needs either a tool or reward_model: true"),
    )


class Kl(RecipeModel):
    """The KL penalty that keeps the policy near the adapter that the training starts from."""

    coefficient: float = Field(default=0.05, ge=0)
    """Weight β of the penalty for each token (Huang 2024: 0.05); with `ppo` its initial value. `ppo` and `rloo`
    subtract log policy − log reference from the reward; `grpo` adds Schulman's estimate k3 to the loss. The weight must
    be above 0 with `rloo` and `grpo`."""

    target: float | None = Field(default=6.0, gt=0)
    """`ppo` only: target KL of a whole reply, in nats; β is adjusted to reach this target (Ziegler 2019, section 2.2:
    6). Null: β is constant, as always with `rloo` and `grpo`."""

    horizon: int = Field(default=64, ge=1)
    """`ppo` only: number of replies over which β changes by at most a fifth. Ziegler uses 10,000 in training runs with
    millions of replies."""

    budget: float = Field(default=20.0, gt=0)
    """Maximum KL of a whole reply, in nats, averaged over an iteration. If the KL rises above this value, the training
    ends with the best adapter so far."""


class Rollouts(RecipeModel):
    """A vLLM server on this machine that samples the replies of an iteration instead of the trainer. The server must
    run vLLM 0.32 or later, serve the line's base model, load adapters at run time, and return log-probabilities at the
    sampling temperature (`--logprobs-mode processed_logprobs`). The trainer still computes all losses, and the
    measurements on held-out prompts."""

    url: str = Field(examples=["unix:/run/rollouts/api", "http://127.0.0.1:8000"])
    """Address of the server: a socket or a port of this machine, so that prompts do not leave it."""

    copies: Path = Field(examples=["/srv/rollouts"])
    """Absolute path of the directory through which the server gets the policy's adapters. The trainer's account owns
    the directory, and the server's account reads it as a member of the directory's group. No other account may be able
    to change the directory."""

    at_once: int = Field(default=16, ge=1, le=256)
    """Maximum number of replies requested at once."""

    seconds: float = Field(default=600, gt=0)
    """Maximum time for one reply, in seconds."""

    cap: float = Field(default=LARGEST_WEIGHT, ge=1)
    """Maximum importance weight of a token. The weight is min(π/μ, cap), with the token's probability in the trainer
    (π) and in vLLM (μ) (truncated importance sampling, Ionides 2008; TRL's default is 2). If the trainer itself samples
    in bfloat16, it uses the same weights, with a cap of 2."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: not is_here(it.url), "'url' must be unix:/PATH or http://127.0.0.1:PORT"),
        (lambda it: not it.copies.is_absolute(), "'copies' must begin with /"),
    )


class Rlhf(RecipeModel):
    """Reinforcement learning after SFT, with the SFT adapter as the reference. This stage needs an adapter (`lora` or
    `qlora`) and one device. Dropout is off."""

    algorithm: Literal["ppo", "rloo", "grpo"] = "ppo"
    """`ppo` is proximal policy optimisation (Schulman et al. 2017) as InstructGPT uses it (Ouyang et al. 2022). `rloo`
    (Ahmadian et al. 2024) and `grpo` (Shao et al. 2024) have no value function: they compare several replies to one
    prompt. For `rloo` and `grpo`, the TRL library computes loss and forward pass, and the record states this. Both need
    `adapter: lora`."""

    reward: tuple[Reward, ...] = Field(min_length=1)
    """Reward that is optimised: one part or several."""

    gold: tuple[Reward, ...] | None = Field(default=None, min_length=1)
    """Reward that is measured on held-out prompts but never optimised, to detect reward hacking; null: `reward`."""

    iterations: int = Field(default=40, ge=1)
    """Rounds of sampling, scoring and learning."""

    prompts: int = Field(default=8, ge=2, le=256)
    """Number of prompts of an iteration. A prompt is used again only after all other prompts have been used."""

    group: int = Field(default=4, ge=1, le=64)
    """Number of replies to each prompt. On CPUs, `ppo` computes a prompt once for all its replies. This is faster if
    prompts are longer than replies. `rloo` and `grpo` compare the replies with one another, and need at least two."""

    max_new_tokens: int = Field(default=48, ge=4)
    """Maximum length of a sampled reply. Prompts that leave no room for a reply of this length within
    `training.sft.max_length` are left out."""

    temperature: float = Field(default=0.7, gt=0, le=2)
    """Temperature of sampling and of every log-probability (Huang 2024: 0.7). There is no top-k or top-p truncation."""

    rollouts: Rollouts | None = None
    """vLLM server that samples; null: the trainer samples, so that a resumed training run gives the same bytes."""

    missing_end_penalty: float = Field(default=1.0, ge=0)
    """Amount subtracted from the reward of a reply without end of turn (Huang 2024, detail 4.3). Set this key to 0 if
    `max_new_tokens` is shorter than the institution's replies. Otherwise the penalty would teach the model to stop
    early."""

    cut_replies: Literal["terminal", "bootstrap", "excluded"] = Field(
        default="terminal", exclude_if=lambda value: value == "terminal"
    )
    """How training treats a reply that was truncated at `max_new_tokens`. `terminal`: like a reply that ends there,
    with its score and `missing_end_penalty`. `bootstrap`, `ppo` only: the value of its last state replaces the score,
    because the reply could continue (Pardo et al. 2018, "Time Limits in Reinforcement Learning"). `excluded`: the
    adapter does not learn from the reply. With `rloo` and `grpo`, TRL's `mask_truncated_completions` does this, and the
    reply's score still counts in the mean of its group. With `bootstrap` and `excluded`, at least two replies of an
    iteration must end before the limit."""

    epochs: int = Field(default=2, ge=1, le=10)
    """Passes over an iteration's replies."""

    minibatches: int = Field(default=2, ge=1)
    """Minibatches of a pass, one optimizer step each. With `rloo` and `grpo` all must have the same size."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """Initial learning rate of the adapter; it falls linearly to zero."""

    value_learning_rate: float = Field(default=1e-3, gt=0)
    """`ppo` only: learning rate of the value head. With 1e-2, the measured value loss was a hundred times larger."""

    clip: float = Field(default=0.2, gt=0, lt=1)
    """Clipping range ε of a token's probability ratio (Schulman et al. 2017, equation 7); with `rloo`, of a whole
    reply's probability ratio. `ppo` also clips the value to this range."""

    discount: float = Field(default=1.0, gt=0, le=1)
    """`ppo` only: discount γ. The default is 1, because a reply is scored as a whole."""

    trace: float = Field(default=1.0, ge=0, le=1)
    """`ppo` only: λ of the generalised advantage estimate (Schulman et al. 2015). 1 as in verl and OpenRLHF; Huang 2024
    uses 0.95. While the value head is near its start at zero, any λ below 1 gives a reply's first tokens less advantage
    than its last tokens, regardless of the reward."""

    kl: Kl = Kl()
    """KL penalty that keeps the policy near the adapter that the training starts from."""

    measure_every: int = Field(default=5, ge=1)
    """Iterations between two measurements on held-out prompts."""

    measured_prompts: int = Field(default=48, ge=4)
    """Maximum number of held-out prompts. One half is measured during training, to choose the best adapter. The other
    half is measured only at the start and at the end, for the comparison with the parent adapter."""

    patience: int = Field(default=3, ge=1)
    """Number of consecutive measurements at which the held-out reward may be below its best value while the training
    reward rises. Then the training ends."""

    samples: int = Field(default=4, ge=0, le=32)
    """Number of training prompts whose replies at start, middle and end are stored in the artifact."""

    @field_validator("reward", "gold")
    @classmethod
    def _names_are_distinct(cls, parts: tuple[Reward, ...] | None) -> tuple[Reward, ...] | None:
        names = [part.name for part in parts or ()]
        if len(set(names)) != len(names):
            raise ValueError(f"two parts share a name: {', '.join(names)}")
        if sum(part.reward_model for part in parts or ()) > 1:
            raise ValueError("only one part of a reward may use the line's reward model")
        return parts

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: ", ".join(it.set_for_others), "algorithm {0.algorithm} does not use {1}"),
        (lambda it: it.minibatches > it.prompts, "there are more minibatches than prompts"),
        (
            lambda it: it.kl_target is not None and it.kl.budget <= it.kl_target,
            "kl.budget must be above kl.target, because the training ends at kl.budget",
        ),
        (
            lambda it: it.algorithm != "ppo" and it.group < 2,
            "{0.algorithm} compares replies to one prompt: group must be at least 2",
        ),
        (
            lambda it: it.algorithm != "ppo" and it.cut_replies == "bootstrap",
            "{0.algorithm} has no value function, so cut_replies cannot be bootstrap",
        ),
        (
            lambda it: it.algorithm != "ppo" and it.replies % it.minibatches,
            "prompts × group is {0.replies}; for {0.algorithm} it must be a multiple of minibatches",
        ),
        (
            lambda it: it.algorithm != "ppo" and it.kl.coefficient == 0,
            "kl.coefficient must be above 0 for {0.algorithm}: at 0, TRL has no reference model, so kl.budget cannot "
            "be checked",
        ),
    )

    @property
    def set_for_others(self) -> list[str]:
        """Keys that are set but belong only to other algorithms."""
        of_another = self.keys_of_others
        return [
            *changed_fields(self, *of_another["section"]),
            *(f"kl.{name}" for name in changed_fields(self.kl, *of_another["kl"])),
        ]

    @property
    def keys_of_others(self) -> dict[str, tuple[str, ...]]:
        """Keys that belong only to other algorithms, in the section itself and in `kl`."""
        if self.algorithm == "ppo":
            return {"section": (), "kl": ()}
        return {"section": ("value_learning_rate", "discount", "trace", "rollouts"), "kl": ("target", "horizon")}

    @property
    def replies(self) -> int:
        """Number of replies of an iteration."""
        return self.prompts * self.group

    @property
    def kl_target(self) -> float | None:
        """Target KL to which β is adjusted; None if β is constant."""
        return self.kl.target if self.algorithm == "ppo" else None

    def largest_weight(self, precision: str) -> float | None:
        """Return the cap of a token's importance weight; None if every weight is 1.

        Every weight is 1 if the trainer itself samples in float32, because a token then has practically the same
        probability in sampling and update.
        """
        if self.rollouts is not None:
            return self.rollouts.cap
        return None if precision == "float32" else LARGEST_WEIGHT

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine an adapter: the section's keys without the keys of other algorithms."""
        content = self.model_dump(mode="json")
        others = self.keys_of_others
        return {
            **{name: value for name, value in content.items() if name not in others["section"]},
            "kl": {name: value for name, value in content["kl"].items() if name not in others["kl"]},
        }

    @property
    def measured(self) -> tuple[Reward, ...]:
        """Parts of the reward that are measured on held-out prompts."""
        return self.gold or self.reward

    @property
    def uses_reward_model(self) -> bool:
        """True if a part of the optimised or the measured reward uses the line's reward model."""
        return any(part.reward_model for part in self._parts)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Every tool of the section."""
        return tuple(part.tool for part in self._parts if part.tool is not None)

    @property
    def _parts(self) -> tuple[Reward, ...]:
        return (*self.reward, *(self.gold or ()))


class RewardModel(Tuning):
    """The reward model: a LoRA adapter with the settings of `training.sft`, and a scalar head, on the line's base
    model. TRL's RewardTrainer trains it.

    The model learns to score the chosen reply of a preference pair higher than the rejected one (Bradley and Terry
    1952; Ouyang et al. 2022, section 3.5). Its accuracy is measured on held-out pairs.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    """Maximum learning rate of adapter and head. 1e-4 is TRL's default for reward models."""

    centring: float = Field(default=0.01, ge=0)
    """Weight of the penalty that keeps scores near zero: the squared sum of both scores of a pair. 0.01 as in
    Eisenstein et al. 2023 ("Helping or Herding?") and TRL's guide; 0: no penalty."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: changed_fields(it, "packing"), "a reward model has no packing: TRL pads the rows of a batch"),
    )


TrlArgument = float | int | bool | str | tuple[str | float, ...]
"""Value of an argument of a TRL trainer."""

OPTIMIZER_ARGUMENTS = ("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "weight_decay")
"""Optimizer arguments that every trainer accepts, and for which the recipe has no keys."""


@dataclass(frozen=True)
class TrlTrainer:
    """A TRL trainer that learns from preference pairs with one model on one device, without generating replies."""

    stability: Literal["stable", "experimental"]
    """TRL's own classification. An experimental trainer may change or disappear in any release of TRL."""
    arguments: tuple[str, ...]
    """Names of the arguments that determine the trainer's loss."""
    has_reference: bool
    loss_types: tuple[str, ...] = ()
    """Accepted values of `loss_type`. Other values would fail only at the first step."""


_TRL = tomllib.loads(Path(__file__).with_name("trl.toml").read_text(encoding="utf-8"))
TRAINERS = TypeAdapter(dict[str, TrlTrainer]).validate_python(_TRL["trainers"])
REFUSED_TRAINERS: Mapping[str, str] = _TRL["refused"]
"""Maps each TRL trainer that cannot be used for preference pairs to the reason."""
_RECIPE_KEYS: Mapping[str, str] = _TRL["recipe_keys"]
"""Maps an argument of TRL to the recipe's key that determines its value."""


def check_arguments(trainer: str | None, arguments: Mapping[str, TrlArgument]) -> None:
    """Raise ValueError, with a message for the recipe's author, if the trainer or an argument is not supported."""
    known = sorted(TRAINERS)
    if trainer is None:
        raise ValueError(f"method trl needs the key `trainer`; set it to one of: {', '.join(known)}")
    if trainer in REFUSED_TRAINERS:
        raise ValueError(f"trainer {trainer} of TRL is not for preference pairs: {REFUSED_TRAINERS[trainer]}")
    if trainer not in TRAINERS:
        raise ValueError(f"'{trainer}' is not a supported trainer of TRL; {nearest_known(trainer, known)}")
    taken = sorted((*TRAINERS[trainer].arguments, *OPTIMIZER_ARGUMENTS))
    for name, value in arguments.items():
        if name in _RECIPE_KEYS:
            raise ValueError(f"argument '{name}' cannot be set here; set {_RECIPE_KEYS[name]} instead")
        if name not in taken:
            raise ValueError(f"trainer {trainer} has no supported argument '{name}'; {nearest_known(name, taken)}")
        if not _is_of_its_kind(name, value):
            raise ValueError(f"argument '{name}' must be {_kind(name)}")
    losses = TRAINERS[trainer].loss_types
    for loss in _parts(arguments.get("loss_type", ())):
        if loss not in losses:
            raise ValueError(f"'{loss}' is not a loss_type of trainer {trainer}; {nearest_known(str(loss), losses)}")


def _kind(name: str) -> str:
    if name in ("loss_type", "f_divergence_type"):
        return "a text"
    if name == "use_weighting":
        return "true or false"
    if name == "loss_weights":
        return "a list of numbers"
    return "a number above 0" if name == "beta" else "a number"


def _is_of_its_kind(name: str, value: TrlArgument) -> bool:
    """Return True if an argument's value has the right type. TRL itself accepts any type, and then fails at the first
    step or trains wrongly."""
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
