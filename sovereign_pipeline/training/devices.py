"""Shard one model over several devices, check the sharding, and divide work between the processes of a training run."""

import datetime
import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.job import TrainingJob

Item = TypeVar("Item")

MEETING_VARIABLE = "SOVEREIGN_TRAINER_MEETING"
"""Environment variable with the path of the file through which the processes of one training run find each other. The
file's directory belongs to this account alone and is visible on every machine of the run."""
MINUTES_TO_WAIT = 30
"""Minutes that a process waits for the slowest process, at the beginning and at each collective operation. transformers
has the same default."""

# Each device has a shard of the parameters, gradients and optimizer state. A checkpoint contains the whole model.
FSDP2 = {
    "version": 2,
    "state_dict_type": "FULL_STATE_DICT",
    "reshard_after_forward": True,
    "cpu_ram_efficient_loading": False,
}
ZERO3 = {
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    # transformers' own AdamW is used, as on one device.
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


def sharding_arguments(job: TrainingJob) -> dict[str, Any]:
    """Return the additional TrainingArguments that sharding needs; empty for one device."""
    if job.devices.count == 1:
        return {}
    if job.devices.sharding == "zero3":
        return {"deepspeed": ZERO3}
    return {"fsdp": True, "fsdp_config": FSDP2, "dataloader_pin_memory": False}


def on_this_machine(job: TrainingJob) -> int:
    """Return the number of processes of this training run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", job.devices.count))


def meet(job: TrainingJob) -> None:
    """Connect the processes of one training run to each other through a shared file, before accelerate connects them.
    accelerate would use a TCP port, which torch opens on every interface without authentication. The processes exchange
    tensors over loopback, over the interface that institution.yaml sets for the nodes, or directly between the devices.
    """
    if job.devices.count == 1:
        return
    import torch
    import torch.distributed as dist
    from accelerate.utils import check_cuda_p2p_ib_support

    if torch.cuda.is_available() and not check_cuda_p2p_ib_support():  # accelerate refuses such cards otherwise
        os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    rank, count = int(os.environ["RANK"]), job.devices.count
    dist.init_process_group(
        "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo",
        store=dist.FileStore(os.environ[MEETING_VARIABLE], count),
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(minutes=MINUTES_TO_WAIT),
    )


def let_accelerate_shard_on_cpu() -> None:
    """Make accelerate use FSDP on CPUs. FSDP2 does not need CUDA, but accelerate shards only processes of type
    MULTI_GPU. This function sets that type; otherwise accelerate would silently use data parallelism."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    state = PartialState._shared_state
    if state.get("distributed_type") == DistributedType.MULTI_CPU:
        state["distributed_type"] = DistributedType.MULTI_GPU


def check_sharded(job: TrainingJob, accelerator: Any) -> None:
    """With several devices, raise TrainingFailed unless the recipe's number of processes share one sharded model."""
    if job.devices.count == 1:
        return
    sharded = accelerator.is_fsdp2 if job.devices.sharding == "fsdp2" else accelerator.state.deepspeed_plugin
    if accelerator.num_processes != job.devices.count or not sharded:
        raise TrainingFailed(
            f"The recipe requires {job.devices.count} processes with {job.devices.sharding}, but "
            f"{accelerator.num_processes} processes run {'with' if sharded else 'without'} sharding.",
            "Install the pinned versions (requirements/).",
        )


def is_first(job: TrainingJob) -> bool:
    """Return True if this process writes the results that all processes share: it has rank 0, or is the only
    process."""
    return job.devices.count == 1 or os.environ["RANK"] == "0"


def all_processes(job: TrainingJob, is_true: bool) -> bool:
    """Return True if `is_true` is True in every process. Every process must call this function."""
    return add_up(job, [float(is_true)]) == [job.devices.count]


def in_shares(
    job: TrainingJob, items: Sequence[Item], count_of: Callable[[Item], int], values_of: Callable[[Item], list[float]]
) -> list[float]:
    """Compute the values of all items, with the items divided between the processes. Every process gets all values, in
    the order of the items.

    Each of n processes computes every n-th item. A pass through a sharded model needs all processes, so all processes
    must make the same number of calls of `values_of`. A process without an item in the last round therefore computes
    the last item and discards the result.

    Args:
        count_of: function that returns the number of values of an item.
        values_of: function that computes these values. It must need the same number of passes for every item.
    """
    rank, count = (0, 1) if job.devices.count == 1 else (int(os.environ["RANK"]), job.devices.count)
    ends = list(accumulate(count_of(item) for item in items))
    found = [0.0] * (ends[-1] if ends else 0)
    for first in range(0, len(items), count):
        place = first + rank
        values = values_of(items[min(place, len(items) - 1)])
        if place < len(items):
            found[ends[place] - count_of(items[place]) : ends[place]] = values
    return add_up(job, found)


def add_up(job: TrainingJob, values: Sequence[float]) -> list[float]:
    """Add up each value over all processes, and return the sums in every process."""
    if job.devices.count == 1 or not values:
        return list(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return [float(each) for each in sums]


def give_back_shards(model: Any) -> None:
    """Free the full parameters that a pass outside the training loop gathered, so that only the shards remain."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
