"""FSDP2 on CPUs, for tests: accelerate shards on accelerators alone, so it is told that a CPU is one."""

from __future__ import annotations

from typing import Any


def shard_on_cpus() -> None:
    """Have accelerate take CPUs for devices to shard over, in this process."""
    import accelerate.state as state

    begin = state.AcceleratorState.__init__

    def sharding(self: Any, *given: Any, fsdp_plugin: Any = None, **named: Any) -> None:
        begin(self, *given, **named)
        if fsdp_plugin is not None:
            self.distributed_type = state.PartialState._shared_state["distributed_type"] = state.DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    state.AcceleratorState.__init__ = sharding  # type: ignore[method-assign]
