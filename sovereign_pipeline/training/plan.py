"""Decide the order of the training rows before the first step, so that the order can be recorded and repeated."""

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.training.compute import Passed, added
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rows import EncodedRow
from sovereign_pipeline.training.sizing import Forward


@dataclass(frozen=True)
class Plan:
    """The rows of a training run in training order, as packs or as single rows."""

    units: list[list[EncodedRow]]
    """Units in training order. A unit is a pack, or a single row."""
    batch_size: int
    """Number of units in one pass on one device."""
    units_a_step: int
    """Number of units in a step: batch_size × gradient_accumulation × devices."""
    units_a_pass: int
    """Number of units in a pass over all devices: batch_size × devices."""
    padded: bool = False
    """True if rows are padded to the longest row of their batch and logits are computed for every position, as in TRL's
    trainers."""
    left_out: int = 0
    """Number of units that are omitted at the end of the plan, because the method cannot train on so few in a pass.
    With kto, this is a single reply. With TRL's loss, these are fewer units than one batch for each device."""

    @property
    def steps(self) -> int:
        return math.ceil(len(self.units) / self.units_a_step)

    @property
    def order_digest(self) -> str:
        return digest_of([[row.id for row in unit] for unit in self.units])

    @property
    def rows(self) -> list[EncodedRow]:
        return [row for unit in self.units for row in unit]

    def passed(self, apart: bool) -> Passed:
        """Return the sum of the token counts of all passes of the plan; see `Passed.of_pass`."""
        return added(map(partial(self._passed_in, apart), self._batches))

    @property
    def _batches(self) -> list[list[list[EncodedRow]]]:
        return [self.units[place : place + self.batch_size] for place in range(0, len(self.units), self.batch_size)]

    def _passed_in(self, apart: bool, batch: Sequence[Sequence[EncodedRow]]) -> Passed:
        rows = [row for unit in batch for row in unit]
        lengths = [len(each) for row in rows for each in row.completions]
        if self.padded:
            return Passed.padded(len(lengths), max(lengths), predicted=len(lengths) * max(lengths))
        return Passed.of_pass(lengths, sum(row.supervised for row in rows), apart)

    @property
    def largest_forward(self) -> Forward:
        """The largest number of tokens in any pass, and the largest number of supervised tokens in any pass."""
        passes = [self._passed_in(True, batch) for batch in self._batches]
        return Forward(tokens=max(each.tokens for each in passes), supervised=max(each.predicted for each in passes))

    def until(self, step: int | None) -> "Plan":
        """Return the plan up to and including this step, or the whole plan if `step` is None."""
        return self if step is None else replace(self, units=self.units[: step * self.units_a_step])

    def tokens_until(self, step: int) -> int:
        return self._tokens_before[min(step * self.units_a_step, len(self.units))]

    @cached_property
    def _tokens_before(self) -> list[int]:
        """Number of tokens in all units before each unit, followed by the total. Cached, because every step reads
        it."""
        return list(accumulate((sum(row.tokens for row in unit) for unit in self.units), initial=0))


def make_plan(job: TrainingJob, rows: Sequence[EncodedRow]) -> Plan:
    """Build the plan: pack the rows (only SFT with `packing`), shuffle each epoch with its own seed, and stop at
    `max_steps`. Raises TrainingFailed if the plan has too few rows for the method."""
    tuning = job.tuning
    packed = job.method == "sft" and tuning.packing
    units = packs_alike(rows, tuning.max_length) if packed else [[row] for row in rows]
    units_a_pass = tuning.batch_size * job.devices.count
    units_a_step = units_a_pass * tuning.gradient_accumulation
    wanted = max(1, round(tuning.epochs * len(units)))
    if tuning.max_steps is not None:
        wanted = min(wanted, tuning.max_steps * units_a_step)
    order: list[list[EncodedRow]] = []
    epoch = 0
    while len(order) < wanted:
        shuffled = list(units)
        random.Random(f"{job.seed}/{epoch}").shuffle(shuffled)
        order += shuffled
        epoch += 1
    whole = _whole_passes(job, wanted, units_a_pass, units_a_step)
    return Plan(order[:whole], tuning.batch_size, units_a_step, units_a_pass, job.is_trls, wanted - whole)


def packs_alike(rows: Sequence[EncodedRow], max_length: int) -> list[list[EncodedRow]]:
    """Pack rows into about equally full packs of at most `max_length` tokens. No row is truncated. Rows of equal length
    keep their order.

    Rows are placed longest first, each into the emptiest pack (Graham 1969, "longest processing time first"). The
    number of packs grows until all rows fit. First-fit decreasing needs up to a tenth fewer packs for a thousand rows
    or more, but its last pack gets only the shortest rows and stays emptier. If a step is one pack, the loss would
    weight each token of that last pack several times as much as a token of a full pack.
    """
    longest_first = sorted(rows, key=lambda row: -row.tokens)
    least = math.ceil(sum(row.tokens for row in rows) / max_length)
    count = max(least, sum(2 * row.tokens > max_length for row in rows))
    while True:
        count = min(count, len(rows))
        packs: list[list[EncodedRow]] = [[] for _ in range(count)]
        emptiest = [(0, place) for place in range(count)]
        for row in longest_first:
            filled, place = emptiest[0]
            if filled + row.tokens > max_length and count < len(rows):
                break
            heapq.heapreplace(emptiest, (filled + row.tokens, place))
            packs[place].append(row)
        else:
            return packs
        count += max(1, count // 200)


def _whole_passes(job: TrainingJob, wanted: int, units_a_pass: int, units_a_step: int) -> int:
    """Return how many of the `wanted` units are trained on. Raises TrainingFailed if `wanted` is too small.

    kto exchanges the replies of rows in a pass, so a pass needs at least two replies. TRL's loss is a mean over each
    device's own batch, so batches of unequal size in a step would weight rows unequally. With several devices,
    accelerate would also fill the smaller batches with rows from the plan's beginning.
    """
    if job.method == "kto" and wanted == 1:
        raise TrainingFailed(
            "1 reply would be trained on, but kto needs at least two replies.", "Raise epochs or max_steps."
        )
    if job.method == "kto" and wanted % units_a_pass == 1:
        return wanted - 1
    short = wanted % units_a_pass
    if not job.is_trls or (job.devices.count == 1 and wanted % units_a_step == short):
        return wanted
    if wanted < units_a_pass:
        raise TrainingFailed(
            f"{counted(wanted, 'row')} would be trained on, but a batch for each of {job.devices.count} devices needs "
            f"{units_a_pass} rows.",
            "Lower devices.count or batch_size, or raise epochs or max_steps.",
        )
    return wanted - short
