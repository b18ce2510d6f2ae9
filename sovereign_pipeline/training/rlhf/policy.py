"""Run the policy, its frozen reference and the value head. The policy and the reference are two adapters on one base
model.

The reference is a copy of the adapter that training starts from. The value head is a linear layer on the policy's last
hidden state. No gradient of the value head flows back into the policy. Replies to one prompt share the prompt's tokens
in a pass: each reply attends to the prompt and to itself, and the positions of its tokens continue those of the prompt.
If attention does not support this, as on CUDA, each reply has its own copy of the prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sovereign_pipeline.training.compute import Passed, added
from sovereign_pipeline.training.forward import in_evaluation_mode, passes_in, row_lengths, score_tokens
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import without_dropout
from sovereign_pipeline.training.rows import Completion


def one_pass(completions: Sequence[Completion], model: Any, *, shares_prompts: bool) -> tuple[dict[str, Any], Any]:
    """Return the model's inputs for one pass over the concatenated completions, and the token ids of all replies.
    Logits are computed only for the states that predict reply tokens. shares_prompts: True if consecutive replies to
    one prompt share its tokens; the prompt's last state then predicts the first token of each reply. No reply may be
    empty."""
    import torch

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
        # The prompt's last state predicts the first reply token, and each reply token's state predicts the next token.
        places += [prompt_end - 1, *range(len(ids), len(ids) + len(each.reply_ids) - 1)]
        ids += each.reply_ids
        positions += range(len(each.prompt_ids), len(each))
        lengths.append(len(each.reply_ids))
        goes_on_from.append(prompt_row)
    if shares_prompts:
        attention: dict[str, Any] = {**row_lengths(model, lengths), "goes_on_from": goes_on_from}
    else:
        attention = row_lengths(model, [len(each) for each in completions])
    tensor = partial(torch.tensor, device=model.device)
    inputs = {"input_ids": tensor([ids]), "position_ids": tensor([positions]), "logits_to_keep": tensor(places)}
    return {**inputs, **attention}, tensor([token for each in completions for token in each.reply_ids])


POLICY, REFERENCE = "default", "reference"
"""Names of the two adapters in PEFT; PEFT names a single adapter `default`."""


@dataclass(frozen=True)
class TokenNumbers:
    """Per-token values of all replies, concatenated into one vector per field; float32, [tokens]."""

    log_probabilities: Any
    """Log-probabilities in nats, at the sampling temperature."""
    entropies: Any
    """Entropy of each token's whole distribution over the vocabulary, nats; without gradient."""
    values: Any
    """Value of the state before each token; zeros for the reference."""

    @classmethod
    def joined(cls, parts: "Sequence[TokenNumbers]") -> "TokenNumbers":
        import torch

        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


class TwoAdapters:
    """A model with two adapters: the policy, which is trained, and a frozen copy of its initial state."""

    shares_prompts = False
    """True if replies to one prompt share a single copy of the prompt in a pass."""

    def __init__(self, model: Any, precision: str, reference: str = REFERENCE) -> None:
        """Wrap the model. reference: the name of the frozen copy in PEFT. The copy may be added to the model later."""
        self.model = model
        self.reference = reference
        self._precision = precision

    @property
    def adapter(self) -> dict[str, Any]:
        """Mapping of name to parameter, for the policy's adapter."""
        return {name: each for name, each in self.model.named_parameters() if f".{POLICY}." in name}

    @contextmanager
    def running(self, adapter: str = POLICY) -> Iterator[Any]:
        """Yield the model with this adapter active, in the job's precision. Afterwards the policy is active."""
        if adapter != POLICY:
            self._switch_to(adapter)
        try:
            with passes_in(self._precision, self.model.device.type):
                yield self.model
        finally:
            if adapter != POLICY:
                self._switch_to(POLICY)

    def divergence(self, completions: Sequence[Completion], temperature: float) -> float:
        """Estimate KL(policy, reference) of a whole reply, in nats: the mean over the given replies. The replies must
        have been sampled from the policy at this temperature."""
        logs = [self._reply_logs(completions, adapter, temperature) for adapter in (POLICY, self.reference)]
        return float((logs[0] - logs[1]).sum()) / len(completions)

    def _reply_logs(self, completions: Sequence[Completion], adapter: str, temperature: float) -> Any:
        """Compute the log-probability of each reply, nats; [completions]."""
        import torch

        found = []
        with self.running(adapter) as model, in_evaluation_mode(model):
            for each in completions:
                inputs, targets = one_pass([each], model, shares_prompts=False)
                found.append(score_tokens(model, inputs, targets, temperature).log_probabilities.sum())
        return torch.stack(found)

    def write_adapter(self, directory: Path) -> None:
        """Write the policy's current adapter as a PEFT directory."""
        self.model.save_pretrained(str(directory), selected_adapters=[POLICY], save_embedding_layers=False)

    def alone(self) -> Any:
        """Remove all adapters except the policy's, and return the model for saving."""
        for name in [*self.model.peft_config]:
            if name != POLICY:
                self.model.delete_adapter(name)
        return self.model

    def _switch_to(self, adapter: str) -> None:
        self.model.set_adapter(adapter)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:  # PEFT makes the active adapter trainable
                parameter.requires_grad_(f".{POLICY}." in name)


class Policy(TwoAdapters):
    """A model with both adapters and the value head. The value head is not saved with the trained adapter."""

    def __init__(self, model: Any, job: TrainingJob, temperature: float) -> None:
        """Add the reference and the value head to the model. model: the result of `load_trainable`, with the parent
        adapter as the trained adapter."""
        import torch

        assert job.parent_adapter is not None and job.reward is not None
        super().__init__(model, job.sft.precision)
        self.temperature = temperature
        self._together = job.tuning.packing
        self._most_tokens = job.sft.max_length
        model.load_adapter(str(job.parent_adapter), adapter_name=REFERENCE, is_trainable=False)
        without_dropout(model)  # PEFT gave the reference the dropout of the parent's training
        self._switch_to(POLICY)
        if job.sft.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # the mode of all passes except the sampler's; there is no dropout
        # Replies share a prompt only if attention supports rows of this length that continue another row.
        can_share = self._together and bool(row_lengths(model, [self._most_tokens]))
        self.shares_prompts = can_share and job.reward.rlhf.group > 1
        self.value_head = torch.nn.Linear(model.get_output_embeddings().in_features, 1, device=model.device)
        torch.nn.init.zeros_(self.value_head.weight)  # at first, all states have the same value
        torch.nn.init.zeros_(self.value_head.bias)

    def passes(self, completions: Sequence[Completion]) -> list[list[Completion]]:
        """Split the completions, in order, into one list for each pass. Passes are not padded. A completion has its own
        pass if it is too long to share one, or if the recipe disables packing."""
        most, tokens = self._most_tokens if self._together else 0, 0
        found: list[list[Completion]] = []
        for each in completions:
            shared = self.shares_prompts and bool(found) and found[-1][-1].prompt_ids == each.prompt_ids
            added = len(each.reply_ids) if shared else len(each)
            if not found or tokens + added > most:
                found.append([])
                tokens, added = 0, len(each)
            found[-1].append(each)
            tokens += added
        return found

    def passed(self, completions: Sequence[Completion]) -> Passed:
        """Return the token counts of the passes that read all completions once."""
        return added(map(self._passed_at_once, self.passes(completions)))

    def _passed_at_once(self, completions: Sequence[Completion]) -> Passed:
        replies = [len(each.reply_ids) for each in completions]
        if not self.shares_prompts:
            lengths = [len(each) for each in completions]
            apart = len(lengths) == 1 or bool(row_lengths(self.model, lengths))
            return Passed.of_pass(lengths, sum(replies), apart)
        prompts = {tuple(each.prompt_ids) for each in completions}
        once = Passed.of_pass([*map(len, prompts)], 0, apart=True)
        pairs = sum(len(each.reply_ids) * len(each) for each in completions)
        return once + Passed(sum(replies), sum(replies), pairs)

    def numbers(self, completions: Sequence[Completion]) -> TokenNumbers:
        """Compute the policy's per-token values (`TokenNumbers`) in one pass, with gradient. completions: one of the
        lists that `passes` returned, or a part of one."""
        with self.running():
            return self._numbers(completions, with_values=True)

    def numbers_without_gradient(self, completions: Sequence[Completion], adapter: str = POLICY) -> TokenNumbers:
        """Compute the per-token values of the policy or the reference, pass by pass, without gradient."""
        import torch

        with torch.no_grad(), self.running(adapter):
            return TokenNumbers.joined([self._numbers(each, adapter == POLICY) for each in self.passes(completions)])

    def _numbers(self, completions: Sequence[Completion], with_values: bool) -> TokenNumbers:
        import torch

        inputs, targets = one_pass(completions, self.model, shares_prompts=self.shares_prompts)
        scores = score_tokens(self.model, inputs, targets, self.temperature, entropies=True)
        # The output layer reads exactly the states before the reply tokens, so the values need no additional pass.
        states = scores.states.float()
        if not with_values:
            values = torch.zeros_like(scores.log_probabilities)
        else:
            with torch.autocast(states.device.type, enabled=False):  # bfloat16 has no value between 1 and 1.008
                values = self.value_head(states).squeeze(1)
        return TokenNumbers(scores.log_probabilities, scores.entropies, values)
