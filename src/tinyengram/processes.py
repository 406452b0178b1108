"""Runs of several processes: how many there are, and what they may do with a parameter and its gradient.

What is relied on here belongs to accelerate and ``torch.distributed``; ``tests/test_host.py`` holds it against what is
installed.
"""

from __future__ import annotations

import os
from typing import Any

from tinyengram.errors import TinyEngramError

# accelerate 1.10: kinds of distributed runs in which a parameter lies on a device in part, or is copied elsewhere.
SHARDING = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")


def processes() -> int:
    """How many work together, as ``torchrun`` and ``accelerate launch`` say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is; the first, 0, writes."""
    return int(os.environ.get("RANK", "0"))


def share_of_each(count: int, name: str) -> int:
    """How many of the ``count`` texts of a step each process reads.

    Raises:
        TinyEngramError: They cannot be shared out evenly.
    """
    together = processes()
    if count % together:
        raise TinyEngramError(
            f"{name}={count} texts cannot be shared out among {together} processes. Give a multiple of {together}, or "
            "start fewer processes."
        )
    return count // together


def engine(arguments: Any) -> str:
    """How a run's optimizer keeps its state: ``"whole"`` in each process, or in shards, and of how many if that counts.

    What FSDP2 saves is gathered before, and any number of processes cut it anew; DeepSpeed saves each shard.
    """
    if keeps_parameters_whole(arguments):
        return "whole"
    kind = str(arguments.distributed_state.distributed_type.value)
    return f"{kind} of {arguments.world_size} processes" if kind == "DEEPSPEED" else kind


def refuse_unfit(arguments: Any) -> None:
    """Refuse a run of several processes that would not train one model together.

    Args:
        arguments: ``TrainingArguments`` of a trainer that was made.

    Raises:
        TinyEngramError: accelerate trains each process by itself, or cuts parameters as FSDP1 does.
    """
    if arguments.world_size != processes():
        raise TinyEngramError(
            f"{processes()} processes were started, and accelerate makes them train by themselves, each the whole "
            f"(world size {arguments.world_size}): it knows no way to join them on this machine's devices. Start one, "
            "or take another engine than the one that accelerate's settings name."
        )
    if engine(arguments) == "FSDP" and not cuts_by_rows(arguments):
        raise TinyEngramError(
            "FSDP of version 1 flattens parameters, so that an adapter cannot be told from its base. Give "
            "fsdp_version: 2 in accelerate's config (FSDP_VERSION=2)."
        )


def forget_engine() -> None:
    """Have transformers load the next model whole: what a DeepSpeed run said of that stays with it (ZeRO-3)."""
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def leave_process_group() -> None:
    """End the process group that training began, if there is one, before Python itself ends.

    Its threads may hold tensors of the last collective; freed while the interpreter is torn down, they abort it.
    """
    import gc

    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        gc.collect()  # Wrapped models hold the group, and a group that is held keeps its threads.
        distributed.destroy_process_group()


def keeps_parameters_whole(arguments: Any) -> bool:
    """Whether a run of Trainer leaves each parameter whole on its device (``distributed_state``, accelerate 1.10).

    Trainer's accelerator writes the kind of run there before an optimizer is made.
    """
    kind = getattr(getattr(arguments, "distributed_state", None), "distributed_type", None)
    return getattr(kind, "value", kind) not in SHARDING


def cuts_by_rows(arguments: Any) -> bool:
    """Whether a run of Trainer cuts each parameter along its first axis, as FSDP2 does (``fsdp_plugin``)."""
    from accelerate.state import AcceleratorState

    plugin = AcceleratorState._shared_state.get("fsdp_plugin")
    return not keeps_parameters_whole(arguments) and getattr(plugin, "fsdp_version", 1) == 2


def steps_by_rows(arguments: Any) -> bool:
    """Whether an optimizer of a run of Trainer sees tables whose rows are rows."""
    return keeps_parameters_whole(arguments) or cuts_by_rows(arguments)


def exchanges_sparse_gradients() -> bool:
    """Whether sparse gradients can be added up over processes: gloo does (torch 2.8), NCCL and FSDP refuse them."""
    from accelerate.state import AcceleratorState
    from torch import distributed

    kind = AcceleratorState._shared_state.get("distributed_type")
    if getattr(kind, "value", kind) in SHARDING:
        return False
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_backend() == "gloo"
