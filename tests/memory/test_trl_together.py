"""TRL's SFTTrainer on several processes, whole or in shards of FSDP2: what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.memory.test_sharding import weights
from tests.training.test_together import SHARDING

_SCRIPT = """
import hashlib, json, os, sys
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from tests.memory.cpu_shards import shard_on_cpus
from tests.memory.tiny import tiny_config
from tinyengram.sources import load_base

shard_on_cpus()
out, ranks = sys.argv[1], int(os.environ.get("WORLD_SIZE", "1"))
base = load_base("tiny-random-llama")
torch.manual_seed(0)
trainer = SFTTrainer(
    model=base.model,
    processing_class=base.tokenizer,
    train_dataset=Dataset.from_list([{"text": f"{10**n} {n} {2**n} {3**n}"} for n in range(12)]),
    peft_config=tiny_config(),
    args=SFTConfig(
        output_dir=out, max_steps=6, learning_rate=1e-2, lr_scheduler_type="constant", seed=0, logging_steps=1,
        per_device_train_batch_size=4 // ranks, report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
        gradient_checkpointing=False,
    ),
)
trainer.train()
trainer.save_model(out + "/final")
kinds = sorted({type(parameter).__name__ for parameter in trainer.model.parameters()})
digests = {0}
if ranks > 1 and kinds == ["Parameter"]:
    digest = hashlib.sha256()
    for name, parameter in sorted(trainer.model.named_parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    every = [None] * ranks
    torch.distributed.all_gather_object(every, digest.hexdigest())
    digests = set(every)
if not int(os.environ.get("RANK", "0")):
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps([losses, kinds, len(digests)]), flush=True)
if ranks > 1:
    torch.distributed.barrier()
os._exit(0)  # Threads of the process group may end it otherwise, as others free what they hold.
"""


def trained(out: Path, ranks: int, **environment: str) -> tuple[list[float], list[str]]:
    """Losses of the steps, and how parameters lie in a process."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    script = out.parent / "script.py"
    script.write_text(_SCRIPT)
    paths = os.pathsep.join([str(Path.cwd()), str(Path.cwd() / "src")])
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses, kinds, different = json.loads(done.stdout.strip().splitlines()[-1])
    assert different == 1, "every rank has the same bits"
    return losses, kinds


@pytest.mark.slow
def test_trl_trains_on_several_processes_what_it_does_on_one(tmp_path: Path) -> None:
    losses, _ = trained(tmp_path / "one", 1)
    for name, kind, environment in (("whole", "Parameter", {}), ("shards", "DTensor", SHARDING)):
        ours, kinds = trained(tmp_path / name, 2, **environment)
        assert kinds == [kind]
        assert ours == pytest.approx(losses, abs=1e-5)
        torch.testing.assert_close(
            weights(tmp_path / name / "final"), weights(tmp_path / "one" / "final"), atol=1e-4, rtol=0
        )
