"""The policy, its frozen reference and the value head: one base model with two adapters.

The reference is a copy of the adapter that training starts from. The value head is linear, on the policy's last hidden
state, without gradient into it. Replies of one prompt share its tokens in a pass: each attends to the prompt and to
itself, and its positions continue the prompt's. Where attention cannot do so, as on CUDA, each reply has its prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.training.forward import passes_in
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import without_dropout
from sovereign_pipeline.training.rows import Completion


@dataclass(frozen=True)
class Pass:
    """The inputs of one pass through the model."""

    ids: Any
    """[1, tokens]; so are the positions."""
    positions: Any
    places: Any
    """Of the states that the replies' tokens follow from, [replies' tokens]; the last of a prompt once for each of its
    replies."""
    targets: Any
    """The replies' tokens, one reply after the other, [replies' tokens]."""
    attention: dict[str, Any]
    """Further arguments of the model's forward."""


def can_share_prompts(model: Any, most_tokens: int) -> bool:
    """Whether the model's attention takes rows that go on from others, at this length."""
    from sovereign_pipeline.training.forward import row_lengths

    return bool(row_lengths(model, [most_tokens]))


def tokens_in_passes(completions: Sequence[Completion], most: int, shares_prompts: bool) -> list[list[Completion]]:
    """The completions in their order, in parts of at most so many tokens; a longer one is a part of its own."""
    found: list[list[Completion]] = []
    tokens = 0
    for each in completions:
        before = found[-1][-1] if found else None
        shared = shares_prompts and before is not None and before.prompt_ids == each.prompt_ids
        added = len(each.reply_ids) if shared else len(each)
        if not found or tokens + added > most:
            found.append([])
            tokens, added = 0, len(each)
        found[-1].append(each)
        tokens += added
    return found


def one_pass(completions: Sequence[Completion], model: Any, *, shares_prompts: bool) -> Pass:
    """The completions side by side. A reply must not be empty."""
    import torch

    from sovereign_pipeline.training.forward import row_lengths

    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    lengths: list[int] = []
    goes_on_from: list[int | None] = []
    prompt: Sequence[int] = ()
    prompt_row = prompt_end = 0
    for each in completions:
        if not shares_prompts or each.prompt_ids != prompt:
            prompt, prompt_row = each.prompt_ids, len(lengths)
            ids += prompt
            positions += range(len(prompt))
            prompt_end = len(ids)
            lengths.append(len(prompt))
            goes_on_from.append(None)
        # The first token follows from the prompt's last state, each other from the state of the one before it.
        places += [prompt_end - 1, *range(len(ids), len(ids) + len(each.reply_ids) - 1)]
        ids += each.reply_ids
        positions += range(len(each.prompt_ids), len(each))
        lengths.append(len(each.reply_ids))
        goes_on_from.append(prompt_row)
    if shares_prompts:
        attention: dict[str, Any] = {**row_lengths(model, lengths), "goes_on_from": goes_on_from}
    else:
        attention = row_lengths(model, [len(each) for each in completions])
    return Pass(
        ids=torch.tensor([ids]),
        positions=torch.tensor([positions]),
        places=torch.tensor(places),
        targets=torch.tensor([token for each in completions for token in each.reply_ids]),
        attention=attention,
    )


POLICY, REFERENCE = "default", "reference"
"""Names of the two adapters in PEFT; its own name for an only adapter is `default`."""
ENTROPIES_AT_ONCE = 128
"""Tokens: their distributions over the vocabulary need three times the memory of their logits."""


@dataclass(frozen=True)
class TokenNumbers:
    """Figures of each token of some replies, one reply after the other; float32, [tokens]."""

    log_probabilities: Any
    """Nats, at the temperature of the sampling."""
    entropies: Any
    """Entropy of the whole distribution, nats; without gradient."""
    values: Any
    """Value of the state before the token; zeros for the reference."""

    @classmethod
    def joined(cls, parts: "Sequence[TokenNumbers]") -> "TokenNumbers":
        import torch

        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


class TwoAdapters:
    """A model with the adapter that is trained, and beside it the frozen copy of what it was at the start."""

    shares_prompts = False
    """Whether replies of one prompt go through the model behind one copy of it."""

    def __init__(self, model: Any, precision: str, reference: str = REFERENCE) -> None:
        """reference: the copy's name in PEFT. It may be put on the model later."""
        self.model = model
        self.reference = reference
        self._precision = precision

    @property
    def adapter(self) -> dict[str, Any]:
        """Name -> parameter of what is trained."""
        return {name: each for name, each in self.model.named_parameters() if f".{POLICY}." in name}

    @contextmanager
    def running(self, adapter: str = POLICY) -> Iterator[Any]:
        """The model with this adapter, in the training's precision."""
        if adapter != POLICY:
            self._switch_to(adapter)
        try:
            with passes_in(self._precision, self.model.device.type):
                yield self.model
        finally:
            if adapter != POLICY:
                self._switch_to(POLICY)

    def write_adapter(self, directory: Path) -> None:
        """Write the policy's adapter as an ordinary PEFT directory, as it is now."""
        self.model.save_pretrained(str(directory), selected_adapters=[POLICY], save_embedding_layers=False)

    def alone(self) -> Any:
        """The model with the policy's adapter alone, to be saved."""
        for name in [*self.model.peft_config]:
            if name != POLICY:
                self.model.delete_adapter(name)
        return self.model

    def _switch_to(self, adapter: str) -> None:
        self.model.set_adapter(adapter)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:  # PEFT makes whatever is active trainable
                parameter.requires_grad_(f".{POLICY}." in name)


class Policy(TwoAdapters):
    """A model with both adapters, and the value head, which is no part of what is kept."""

    def __init__(self, model: Any, job: TrainingJob, temperature: float) -> None:
        """model: as `load_trainable` gives it, with the parent adapter as the one that is trained."""
        import torch

        assert job.parent_adapter is not None and job.reward is not None
        super().__init__(model, job.sft.precision)
        self.temperature = temperature
        self._together = job.tuning.packing
        self._most_tokens = job.sft.max_length
        model.load_adapter(str(job.parent_adapter), adapter_name=REFERENCE, is_trainable=False)
        without_dropout(model)  # PEFT gave the reference that of the parent's training
        self._switch_to(POLICY)
        if job.sft.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # in which every pass is made but the sampler's; there is no dropout
        self.shares_prompts = (
            job.reward.rlhf.group > 1 and self._together and can_share_prompts(model, self._most_tokens)
        )
        self.value_head = torch.nn.Linear(model.get_output_embeddings().in_features, 1, device=model.device)
        torch.nn.init.zeros_(self.value_head.weight)  # at first no state is worth more than another
        torch.nn.init.zeros_(self.value_head.bias)

    def passes(self, completions: Sequence[Completion]) -> list[list[Completion]]:
        """The completions in their order, in parts that go through the model at once, without padding."""
        most = self._most_tokens if self._together else 0
        return tokens_in_passes(completions, most, self.shares_prompts)

    def numbers(self, completions: Sequence[Completion]) -> TokenNumbers:
        """The policy's figures, with gradient, in one pass: at most what `passes` puts together."""
        with self.running():
            return self._numbers(completions, with_values=True)

    def numbers_without_gradient(self, completions: Sequence[Completion], adapter: str = POLICY) -> TokenNumbers:
        """Figures of the policy or the reference, pass by pass."""
        import torch

        with torch.no_grad(), self.running(adapter):
            return TokenNumbers.joined([self._numbers(each, adapter == POLICY) for each in self.passes(completions)])

    def _numbers(self, completions: Sequence[Completion], with_values: bool) -> TokenNumbers:
        import torch

        each = one_pass(completions, self.model, shares_prompts=self.shares_prompts)
        targets = each.targets.to(self.model.device)
        seen: list[Any] = []
        # The head sees exactly the states before the replies' tokens: with them the values need no pass of their own.
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.model(
                input_ids=each.ids.to(self.model.device),
                position_ids=each.positions.to(self.model.device),
                use_cache=False,
                logits_to_keep=each.places.to(self.model.device),
                **each.attention,
            ).logits[0]
        finally:
            hook.remove()
        logits = logits.float().div_(self.temperature)
        log_probabilities = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        with torch.no_grad():
            entropies = torch.cat([_entropies(part) for part in logits.detach().split(ENTROPIES_AT_ONCE)])
        states = seen[0].reshape(-1, seen[0].shape[-1]).detach().float()
        if not with_values:
            return TokenNumbers(log_probabilities, entropies, torch.zeros_like(log_probabilities))
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 has no value between 1 and 1.008
            values = self.value_head(states).squeeze(1)
        return TokenNumbers(log_probabilities, entropies, values)


def _entropies(logits: Any) -> Any:
    """Entropy of each token's distribution, nats; [tokens] from [tokens, vocabulary]."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)
