"""One model sharded over several devices: the arguments for it, and the check that it happened.

What does not belong here: starting the processes (`processes/ranks.py`).
"""

import datetime
import os
from typing import Any

from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.training.job import TrainingJob

MEETING_VARIABLE = "SOVEREIGN_TRAINER_MEETING"
"""Path of the file in which the processes that train one model find each other; in a directory of the account's own."""
MINUTES_TO_WAIT = 30
"""For the slowest process, at the beginning and at each exchange; transformers' default too."""

# Each device holds a shard of parameters, gradients and optimizer. Checkpoints are whole, not one file per device.
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
    # transformers' own AdamW stays the optimizer, as on one device.
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


def sharding_arguments(job: TrainingJob) -> dict[str, Any]:
    """Arguments of TrainingArguments beside those for one device."""
    if job.devices.count == 1:
        return {}
    if job.devices.sharding == "zero3":
        return {"deepspeed": ZERO3}
    return {"fsdp": True, "fsdp_config": FSDP2, "dataloader_pin_memory": False}


def meet(job: TrainingJob, on_cpu: bool) -> None:
    """Connect the processes that train one model on this machine, before accelerate would.

    accelerate would have them meet at a TCP port, which torch opens on every interface to whoever connects. They meet
    in a file, and exchange tensors over loopback or between the devices.
    """
    if job.devices.count == 1:
        return
    import torch.distributed as dist

    rank, count = int(os.environ["RANK"]), job.devices.count
    dist.init_process_group(
        "gloo" if on_cpu else "cuda:nccl,cpu:gloo",
        store=dist.FileStore(os.environ[MEETING_VARIABLE], count),
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(minutes=MINUTES_TO_WAIT),
    )


def let_accelerate_shard_on_cpu() -> None:
    """Make accelerate use FSDP on CPUs, where it silently falls back to data parallelism.

    Nothing in FSDP2 needs CUDA, so accelerate's state declares these processes as the kind that it shards.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    state = PartialState._shared_state
    if state.get("distributed_type") == DistributedType.MULTI_CPU:
        state["distributed_type"] = DistributedType.MULTI_GPU


def check_sharded(job: TrainingJob, accelerator: Any) -> None:
    """Raise TrainingFailed when the processes do not share one model."""
    if job.devices.count == 1:
        return
    sharded = accelerator.is_fsdp2 if job.devices.sharding == "fsdp2" else accelerator.state.deepspeed_plugin
    if accelerator.num_processes != job.devices.count or not sharded:
        raise TrainingFailed(
            f"The recipe asks for {job.devices.count} processes with {job.devices.sharding}; "
            f"{accelerator.num_processes} {'with' if sharded else 'without'} it were started.",
            "Install the pinned versions (requirements/).",
        )
