"""Count the floating-point operations (FLOPs) of a training run, and measure its energy.

Only matrix products are counted: a product of [m, k] and [k, n] is 2·m·k·n operations. A forward pass is then two
operations for each weight and token (Kaplan et al. 2020, section 2.1). Attention is two products over all pairs of
tokens in a row; the causal mask does not reduce the count (Chowdhery et al. 2022, appendix B). In the backward pass,
the gradients of activations cost as much as the forward pass. The gradients of trained weights cost the same amount
once more. LoRA trains only the adapter's weights (Hu et al. 2021, section 4); full tuning trains all weights. In LoRA
without gradient checkpointing, frozen weights that are multiplied with the first layer's input have no backward
product, because that input needs no gradient. Gradient checkpointing repeats the forward pass of the layers. Norms,
activation functions, softmax, DoRA's norms, dequantisation and the optimizer are not counted.

A test compares these counts with `torch.utils.flop_counter.FlopCounterMode` on real steps. Guards, probes, held-out
measurements, and steps repeated after a crash are not counted, so that equal training runs have equal counts.

Energy is measured with the energy counters of the devices. Without counters, the energy is estimated as the power
stated in institution.yaml times the duration. A GPU's counter is NVML's `nvmlDeviceGetTotalEnergyConsumption` (Volta or
newer). This counter is read from the driver's own library through ctypes, because only three functions are needed. The
package `nvidia-ml-py` binds the whole library and is released with each driver. The counters of processors and memory
are RAPL's, in /sys/class/powercap. Only root can read them (CVE-2020-8694), unless an administrator gives other
accounts access. A counter covers the whole device, including other programs that use the device. Fans, disks, cooling
and the losses of the power supply are excluded.

Every `SECONDS` seconds, each process of a training run writes a record of its energy beside the checkpoints. At the
end, the records of all processes are added up, including processes before a crash. The energy of a repeated step is
therefore counted each time. If a process is killed, at most the energy of its last `SECONDS` seconds is missing.
"""

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sovereign_pipeline.base.files import Frozen, canonical_json
from sovereign_pipeline.base_models.shapes import Shape
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.training.job import TrainingJob, mark_of

READS_EMBEDDINGS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value")
"""Names of linear modules. In the model's first layer, the modules with these names read the embeddings."""


@dataclass(frozen=True)
class Passed:
    """Token counts of one or more forward passes through a model, padding included."""

    tokens: int = 0
    predicted: int = 0
    """Number of positions whose logits are computed."""
    pairs: int = 0
    """Number of token pairs for which each attention head of each layer computes a score."""

    def __add__(self, other: "Passed") -> "Passed":
        return Passed(self.tokens + other.tokens, self.predicted + other.predicted, self.pairs + other.pairs)

    def __mul__(self, times: int) -> "Passed":
        return Passed(self.tokens * times, self.predicted * times, self.pairs * times)

    @classmethod
    def of_pass(cls, lengths: Sequence[int], predicted: int, apart: bool) -> "Passed":
        """Return the counts of one pass over rows without padding. apart: True if attention is computed within each row
        only; False if it is computed for all token pairs of the pass, and a mask discards pairs across rows."""
        tokens = sum(lengths)
        return cls(tokens, predicted, sum(each**2 for each in lengths) if apart else tokens**2)

    @classmethod
    def padded(cls, rows: int, length: int, predicted: int) -> "Passed":
        """Return the counts of one pass over rows that are padded to `length` tokens."""
        return cls(rows * length, predicted, rows * length**2)

    @classmethod
    def sampled(cls, prompts: Sequence[Sequence[int]], replies: Sequence[int], padded: bool) -> "Passed":
        """Return the counts of sampling one reply for each prompt. replies: lengths of the replies, in tokens. Each
        distinct prompt passes through the model once, then every token of a reply except its last. padded: True if
        prompts are padded to the longest prompt, and all replies take as many steps as the longest reply."""
        starts = [len(each) for each in dict.fromkeys(map(tuple, prompts))]
        begun, steps = [len(each) for each in prompts], [each - 1 for each in replies]
        if padded and prompts:
            starts, begun = [max(starts)] * len(starts), [max(begun)] * len(begun)
            steps = [max(steps)] * len(steps)
        pairs = sum(n * start + n * (n + 1) // 2 for start, n in zip(begun, steps, strict=True))
        return cls(sum(starts) + sum(steps), len(starts) + sum(steps), sum(each**2 for each in starts) + pairs)


def added(parts: Iterable[Passed]) -> Passed:
    """Return the sum of the token counts of several passes."""
    total = Passed()
    for part in parts:
        total = total + part
    return total


@dataclass(frozen=True)
class Flops:
    """Numbers of floating-point operations, by part of the model."""

    layers: int
    """Operations of the linear layers, including the experts that a token uses."""
    adapter: int
    head: int
    """Operations of the layer that computes logits."""
    attention: int

    @property
    def total(self) -> int:
        return self.layers + self.adapter + self.head + self.attention


def flops_of(shape: Shape, sft: Sft, learned: Passed, read: Passed) -> Flops:
    """Return the numbers of operations of a training run, by part of the model. learned: token counts of the forward
    passes that a backward pass follows. read: token counts of all other forward passes."""
    matrices = shape.quantised + shape.active - shape.parameters + shape.expert_parameters
    adapter = 0 if sft.adapter == "none" else _adapter(shape, sft)
    forward = _forward(shape, matrices, adapter, learned + read)
    again = _forward(shape, matrices, adapter, learned)
    if sft.adapter == "none":
        backward = Flops(2 * again.layers, 0, 2 * again.head, 2 * again.attention)
    else:
        # With gradient checkpointing, transformers gives the embeddings a gradient.
        first = [] if sft.gradient_checkpointing else [each for each in shape.linears if _reads_embeddings(each.name)]
        adapted = {each.name for each in shape.targets(sft)}
        unread = sum(each.inputs * each.outputs for each in first)
        unread_by_adapter = sum(sft.rank * each.inputs for each in first if each.name in adapted)
        backward = Flops(
            again.layers - 2 * unread * learned.tokens,
            2 * again.adapter - 2 * unread_by_adapter * learned.tokens,
            again.head,
            2 * again.attention,
        )
    repeated = sft.gradient_checkpointing
    return Flops(
        layers=forward.layers + backward.layers + repeated * again.layers,
        adapter=forward.adapter + backward.adapter + repeated * again.adapter,
        head=forward.head + backward.head,  # the head is outside the layers, and only layers are checkpointed
        attention=forward.attention + backward.attention + repeated * again.attention,
    )


def _forward(shape: Shape, matrices: int, adapter: int, passed: Passed) -> Flops:
    return Flops(
        layers=2 * matrices * passed.tokens,
        adapter=2 * adapter * passed.tokens,
        head=2 * shape.hidden * shape.vocabulary * passed.predicted,
        attention=4 * shape.query * shape.layers * passed.pairs,
    )


def _adapter(shape: Shape, sft: Sft) -> int:
    """Return the number of adapter weights that each token uses: r·(in + out) for each target layer. Adapters of
    experts count only for the experts that the token uses."""
    plain = sum(sft.rank * (each.inputs + each.outputs) for each in shape.targets(sft))
    if not shape.expert_parameters or sft.target_modules != "all-linear":
        return plain
    used = (shape.active - shape.parameters + shape.expert_parameters) / shape.expert_parameters
    return plain + round((sft.rank * shape.adapter - plain) * used)


def _reads_embeddings(name: str) -> bool:
    parts = name.split(".")
    return "0" in parts and parts[-1] in READS_EMBEDDINGS


COUNTED = (
    "matrix products, 2·m·k·n each: linear layers, adapters, logits, and attention over all pairs of a row; backward "
    "without gradients of frozen weights; without guards, probes and held-out measurements"
)


class TrainingCompute(Frozen):
    """The numbers of tokens and operations of a training run, counted as `training/compute.py` describes."""

    tokens_read: int
    """Number of tokens in forward passes without a backward pass: of the reference model, of a reward model, or of the
    policy before its update. Includes padding."""
    tokens_generated: int
    """Number of tokens that the policy sampled for learning."""
    flops: int
    """Number of floating-point operations, including sampling and forward passes without a backward pass."""
    flops_by_part: dict[str, int]
    counted: str
    """Sentence that says which operations are counted."""

    @classmethod
    def of(
        cls, shape: Shape, sft: Sft, learned: Passed, read: Passed, sampled: Passed, tokens_generated: int
    ) -> "TrainingCompute":
        flops = flops_of(shape, sft, learned, read + sampled)
        return cls(
            tokens_read=read.tokens,
            tokens_generated=tokens_generated,
            flops=flops.total,
            flops_by_part=vars(flops),
            counted=COUNTED,
        )


SECONDS = 20.0
"""Seconds between two readings. The interval must be shorter than the time after which a RAPL counter wraps to zero. On
a busy server, this time is at least a few minutes."""
POWERCAP = Path("/sys/class/powercap")
NVML_LIBRARY = "libnvidia-ml.so.1"
JOULES_A_KWH = 3.6e6
MOST_JOULES = 1e15
"""Upper limit of a plausible energy record, in joules. A record at or above this limit is rejected."""
DOMAINS = ("package", "dram")
"""Name prefixes of the RAPL domains that are added up. All other domains overlap with these: cores belong to a package,
and `psys` is the whole platform."""


class Counter(Protocol):
    """A counter of the energy that a device uses."""

    name: str

    def joules(self) -> float:
        """Return the energy in joules since the previous call, or since the counter was created."""


class Rapl:
    """The energy counter of a RAPL domain. The counter wraps to zero at its maximum."""

    def __init__(self, domain: Path) -> None:
        self.name = f"RAPL {(domain / 'name').read_text().strip()}"
        self._file = domain / "energy_uj"
        self._range = int((domain / "max_energy_range_uj").read_text()) + 1
        self._last = int(self._file.read_text())

    def joules(self) -> float:
        now, before = int(self._file.read_text()), self._last
        self._last = now
        return ((now - before) % self._range) / 1e6


class Nvml:
    """The energy counter of an NVIDIA GPU, read through NVML."""

    def __init__(self, library: Any, uuid: str) -> None:
        self.name = "NVML of the GPU"
        self._library, self._device = library, ctypes.c_void_p()
        _succeed("nvmlInit_v2", library.nvmlInit_v2())
        found = library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._device))
        _succeed("nvmlDeviceGetHandleByUUID", found)
        self._last = self._millijoules()

    def _millijoules(self) -> int:
        total = ctypes.c_ulonglong()
        found = self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(total))
        _succeed("nvmlDeviceGetTotalEnergyConsumption", found)
        return total.value

    def joules(self) -> float:
        now, before = self._millijoules(), self._last
        self._last = now
        return (now - before) / 1e3


def _succeed(function: str, status: int) -> None:
    if status != 0:
        raise OSError(f"{function} returned {status}")


class Stated:
    """A counter that multiplies the power in `institution.yaml` by the elapsed time."""

    def __init__(self, watts: float, now: Callable[[], float] = time.monotonic) -> None:
        self.name = f"stated {watts:g} W a device"
        self._watts, self._now = watts, now
        self._last = now()

    def joules(self) -> float:
        now, before = self._now(), self._last
        self._last = now
        return (now - before) * self._watts


@dataclass(frozen=True)
class Counters:
    """The energy counters that one process of a training run reads."""

    counters: Sequence[Counter]
    missing: str = ""
    """Reason why the energy cannot be measured; empty if it can."""

    @property
    def source(self) -> str:
        return ", ".join(each.name for each in self.counters)


def counters_of(gpu: str | None, watts: float | None, powercap: Path, is_first_here: bool = True) -> Counters:
    """Return the energy counters that this process reads: the counter of its GPU, and RAPL's counters of the machine.

    If the GPU has no readable counter (without a GPU: if RAPL has none), the result is only a counter that uses
    `watts`. If `watts` is None too, the result has no counters and states the reason.

    Args:
        gpu: UUID of this process's GPU; None if the process trains on the CPU.
        watts: power of one device in watts, as stated in institution.yaml.
        is_first_here: True for one process of each machine. Only that process reads RAPL's counters; on a machine
            without a GPU, all other processes read no counter.
    """
    of_machine, why = _rapl(powercap) if is_first_here else ([], "")
    if gpu is None and (of_machine or not is_first_here):
        return Counters(of_machine)
    if gpu is not None:
        try:
            return Counters([Nvml(ctypes.CDLL(NVML_LIBRARY), gpu), *of_machine])
        except (OSError, AttributeError) as error:  # no such library, function, or counter of this GPU
            why = f"the GPU has no counter that can be read ({type(error).__name__}: {error})"
    if watts is not None:
        return Counters([Stated(watts)])
    return Counters([], f"{why}, and institution.yaml states no device_watts")


def _rapl(powercap: Path) -> tuple[list[Counter], str]:
    """Return RAPL's counters and an empty text; if none can be read, return an empty list and the reason."""
    domains = [each for each in sorted(powercap.glob("intel-rapl:*")) if (each / "energy_uj").exists()]
    try:
        named = [each for each in domains if (each / "name").read_text().startswith(DOMAINS)]
        found: list[Counter] = [Rapl(each) for each in named]
    except (OSError, ValueError) as error:  # PermissionError, unless the account is root or was given access
        return [], f"the energy counters in {powercap} cannot be read ({type(error).__name__})"
    return found, "" if found else f"there are no energy counters in {powercap}"


@dataclass
class Piece:
    """The energy that one process of a training run has used since the process started."""

    source: str
    missing: str
    joules: float = 0.0
    ended: bool = False
    """False if the process was killed or still runs."""


@dataclass(frozen=True)
class Energy:
    """The energy of a whole training run."""

    kilowatt_hours: float | None
    source: str
    """Source of `kilowatt_hours`, or the reason why `kilowatt_hours` is None."""

    @property
    def measured(self) -> dict[str, float]:
        return {} if self.kilowatt_hours is None else {"energy_kwh": self.kilowatt_hours}

    @property
    def recorded(self) -> dict[str, str]:
        return {"energy": self.source}


@dataclass
class Meter:
    """Measures the energy that this process uses, and writes the energy to a record in the checkpoint directory."""

    directory: Path
    counters: Counters
    identity: str
    piece: Piece = field(init=False)

    def __post_init__(self) -> None:
        self.piece = Piece(self.counters.source, self.counters.missing)
        self._name = f"energy-{time.time_ns():x}-{os.getpid()}.json"
        self._guard = threading.Lock()

    def read(self, ended: bool = False) -> None:
        """Add the energy since the last reading, and rewrite the record. If reading or writing fails, the run goes on,
        but its total energy is reported as not known. ended: True for the last reading of this process."""
        with self._guard:
            self.piece.ended = ended
            try:
                self.piece.joules += sum(each.joules() for each in self.counters.counters)
                if self.counters.counters or self.counters.missing:
                    self._write()
            except (OSError, ValueError) as error:
                self.piece.missing = f"reading a counter or writing the energy record failed ({type(error).__name__})"

    def _write(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        stated = vars(self.piece)
        path, aside = self.directory / self._name, self.directory / f"{self._name}.part"
        aside.write_bytes(canonical_json({**stated, "mark": self._mark(self._name, stated)}) + b"\n")
        aside.replace(path)

    def _mark(self, name: str, stated: dict[str, Any]) -> str:
        return mark_of("energy", [self.identity, name, stated])

    def total(self) -> Energy:
        """Read the counters for the last time, and return the sum of the energy over all processes of the training run.
        If a record is damaged, or a process could not measure, `kilowatt_hours` is None and `source` is the reason."""
        self.read(ended=True)
        others = sorted(path for path in self.directory.glob("energy-*.json") if path.name != self._name)
        own = [self.piece] if self.counters.counters or self.counters.missing else []
        pieces = [*map(self._piece, others), *own]
        whole = [each for each in pieces if each is not None]
        missing = [each.missing for each in whole if each.missing]
        if len(whole) < len(pieces):
            missing.append("an energy record beside the checkpoints is damaged, or was not written by this training")
        if missing or not whole:
            return Energy(None, f"not known: {missing[0] if missing else 'nothing was counted'}")
        source = "; ".join(dict.fromkeys(each.source for each in whole))
        killed = sum(not each.ended for each in whole)
        said = f"{source}; {len(whole)} processes or parts" if len(whole) > 1 else source
        lost = f", {killed} without a last reading, so that up to {killed * SECONDS:g} s are missing" if killed else ""
        return Energy(sum(each.joules for each in whole) / JOULES_A_KWH, said + lost)

    def _piece(self, path: Path) -> Piece | None:
        try:
            stated = json.loads(path.read_bytes())
            is_marked = stated.pop("mark") == self._mark(path.name, stated)
            piece = Piece(**stated)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return piece if is_marked and 0 <= piece.joules < MOST_JOULES else None


@contextmanager
def metered(job: TrainingJob) -> Iterator[Meter]:
    """Yield a meter that reads this process's energy counters every `SECONDS` seconds, and at the end of the block."""
    import torch

    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpu = f"GPU-{torch.cuda.get_device_properties(local).uuid}" if torch.cuda.is_available() else None
    counters = counters_of(gpu, job.device_watts, POWERCAP, is_first_here=local == 0)
    meter, ended = Meter(job.checkpoint_directory, counters, job.identity), threading.Event()

    def read_again() -> None:
        while not ended.wait(SECONDS):
            meter.read()

    reading = threading.Thread(target=read_again, daemon=True)
    meter.read()
    reading.start()
    try:
        yield meter
    finally:
        ended.set()
        reading.join()
        meter.read(ended=True)
