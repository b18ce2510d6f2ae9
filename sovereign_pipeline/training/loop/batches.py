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

    def __init__(
        self,
        job: TrainingJob,
        plan: Plan,
        model: Any,
        progress: Callable[[str], None],
        check_stop: Callable[[], None],
    ) -> None:
        """Compute or read the reference log-probabilities, for a preference method. See `references.py`."""
        self.plan = plan
        self._job = job
        self._references: dict[str, float] = {}
        if job.method == "sft":
            return
        completions = [each for row in plan.rows for each in row.completions]
        if job.method == "kto":
            size = job.tuning.batch_size
            units = plan.units
            for place in range(0, len(units), size):
                completions += exchanged([row for unit in units[place : place + size] for row in unit])
        self._references = reference_log_probabilities(job, model, completions, progress, check_stop)

    @property
    def places(self) -> list[int]:
        """Places of the units in the plan. Several devices get places beyond its end, so that all batches are equal."""
        units, devices = len(self.plan.units), self._job.devices.count
        missing = -units % (self._job.tuning.batch_size * devices) if devices > 1 else 0
        return list(range(units + missing))

    def collate(self, places: Sequence[int]) -> Batch:
        """The tensors of these units; see `forward.packed`. A place beyond the plan's end is no unit."""
        rows = [row for place in places for unit in self.plan.units[place : place + 1] for row in unit]
        completions = [each for row in rows for each in row.completions]
        if not rows:  # a device without a unit takes part in the step with a row that has no supervised token
            completions = [Completion(list(self._job.eos_ids[:1]) * 2, [])]
        batch = packed(completions)
        if self._job.method == "sft":
            return batch
        batch["references"] = self._references_of(completions)
        if self._job.method == "kto":
            import torch

            batch["desirable"] = torch.tensor([row.desirable for row in rows])
            others = exchanged(rows)
            batch["exchanged"] = {**packed(others), "references": self._references_of(others)}
        return batch

    def _references_of(self, completions: Sequence[Completion]) -> Any:
        import torch

        return torch.tensor([self._references[key_of(each)] for each in completions], dtype=torch.float32)
