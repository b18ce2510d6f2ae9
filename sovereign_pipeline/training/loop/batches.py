"""Units of the plan as tensors, for transformers' data loader."""

from collections.abc import Callable, Sequence
from typing import Any

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.forward import Batch, packed
from sovereign_pipeline.training.loop.plan import Plan
from sovereign_pipeline.training.loop.references import key_of, reference_log_probabilities
from sovereign_pipeline.training.loop.rows import Completion, exchanged


class Batches:
    """Batches of a plan, with what each method needs beside the rows; decided by the unit's place in the plan alone."""

    def __init__(self, job: TrainingJob, plan: Plan) -> None:
        self.plan = plan
        self.references: dict[str, float] = {}
        """By `key_of`; a preference method needs `know_references` before its first batch."""
        self._job = job

    def know_references(self, model: Any, progress: Callable[[str], None], check_stop: Callable[[], None]) -> None:
        """Compute or read the reference log-probabilities of a preference method. See `references.py`."""
        completions = [each for row in self.plan.rows for each in row.completions]
        if self._job.method == "kto":
            for first in range(0, len(self.plan.units), self.plan.units_a_pass):
                completions += self._exchanged(range(first, first + self.plan.units_a_pass))
        self.references = reference_log_probabilities(self._job, model, completions, progress, check_stop)

    @property
    def places(self) -> list[int]:
        """Places of the units in the plan. Several devices get places beyond its end, so that all batches are equal."""
        units = len(self.plan.units)
        missing = -units % self.plan.units_a_pass if self._job.devices.count > 1 else 0
        return list(range(units + missing))

    def collate(self, places: Sequence[int]) -> Batch:
        """The tensors of these units; see `forward.packed`. A place beyond the plan's end is no unit.

        A row without a supervised token stands in for such a unit, behind the others: a model that is sharded over
        several devices takes as many passes on each.
        """
        units = [unit for place in places for unit in self.plan.units[place : place + 1]]
        rows = [row for unit in units for row in unit]
        completions = [each for row in rows for each in row.completions]
        in_place_of_units = [self._nothing] * ((len(places) - len(units)) * self._replies_of_a_row)
        batch = packed([*completions, *in_place_of_units])
        if self._job.method == "sft":
            return batch
        batch["references"] = self._references_of(completions)
        if self._job.method == "kto":
            import torch

            batch["desirable"] = torch.tensor([row.desirable for row in rows], dtype=torch.bool)
            others = self._exchanged(places)
            batch["exchanged"] = {
                **packed([*others, *in_place_of_units]),
                "references": self._references_of(others),
            }
        return batch

    def _exchanged(self, places: Sequence[int]) -> list[Completion]:
        """See `rows.exchanged`: over the units of all devices that are in a pass with these, in this part's places."""
        first = places[0] - places[0] % self.plan.units_a_pass
        together = [row for unit in self.plan.units[first : first + self.plan.units_a_pass] for row in unit]
        return exchanged(together)[places[0] - first : places[-1] - first + 1]

    @property
    def _nothing(self) -> Completion:
        return Completion(list(self._job.eos_ids[:1]) * 2, [])

    @property
    def _replies_of_a_row(self) -> int:
        return 1 if self._job.method in ("sft", "kto") else 2

    def _references_of(self, completions: Sequence[Completion]) -> Any:
        import torch

        return torch.tensor([self.references[key_of(each)] for each in completions], dtype=torch.float32)
