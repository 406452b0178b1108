"""FSDP2 under Trainer, as accelerate makes it, on CPUs: what several processes train is what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.memory.tiny import logits_of, some_ids, tiny_model

SCRIPT = """
import json, os, sys
from peft import get_peft_model
from transformers import Trainer, TrainingArguments
from tests.memory.cpu_shards import shard_on_cpus
from tests.memory.tiny import some_ids, tiny_config, tiny_model

out, memory, steps, resume = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None
ranks = int(os.environ.get("WORLD_SIZE", "1"))
shard_on_cpus()
import torch
torch.manual_seed(0)
if memory.pop("exact", False):
    from tinyengram import collect_ngrams
    known = collect_ngrams(some_ids(32, 12)[:8].tolist(), orders=(2, 3), pad_token_id=0)
    memory |= {"memory": "exact", "ngrams": known}
model = get_peft_model(tiny_model(), tiny_config(**memory))
examples = [{"input_ids": ids, "labels": ids} for ids in some_ids(32, 12)]
wrapped = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "state_dict_type": "FULL_STATE_DICT"}
arguments = TrainingArguments(
    output_dir=out, max_steps=steps, learning_rate=1e-2, lr_scheduler_type="constant", use_cpu=True, seed=0,
    per_device_train_batch_size=4 // ranks, report_to="none", disable_tqdm=True, logging_steps=1, save_steps=3,
    **({"fsdp": True, "fsdp_config": wrapped} if ranks > 1 else {}),
)
trainer = Trainer(model=model, args=arguments, train_dataset=examples)
trainer.train(resume_from_checkpoint=resume)
kinds = {type(parameter).__name__ for name, parameter in model.named_parameters() if name.endswith("tables.weight")}
trainer.save_model(out + "/final")
if int(os.environ.get("RANK", "0")) == 0:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    optimizer = trainer.optimizer.optimizer
    print(json.dumps({"losses": losses, "tables": sorted(kinds), "optimizer": type(optimizer).__name__}), flush=True)
if ranks > 1:
    torch.distributed.barrier()
os._exit(0)  # Threads of the process group may end it otherwise, as others free what they hold.
"""
KINDS = {"hashed": {}, "exact": {"exact": True}}


def trained(out: Path, kind: str, ranks: int, steps: int = 6, resume: str = "") -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(out), json.dumps(KINDS[kind]), str(steps), resume],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{Path.cwd() / 'src'}", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a file holds, but for the checksum of it."""
    held = load_file(folder / "adapter_model.safetensors")
    return {name: tensor for name, tensor in held.items() if not name.endswith("checksum")}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_sharded_training_is_that_of_one_process(kind: str, ranks: int, tmp_path: Path) -> None:
    one, several = trained(tmp_path / "one", kind, 1), trained(tmp_path / "several", kind, ranks)
    assert one["optimizer"] == several["optimizer"] == "RowSparseAdamW"
    assert (one["tables"], several["tables"]) == (["Parameter"], ["DTensor"])
    assert several["losses"] == pytest.approx(one["losses"], abs=1e-5)
    whole, gathered = weights(tmp_path / "one" / "final"), weights(tmp_path / "several" / "final")
    assert whole.keys() == gathered.keys()
    torch.testing.assert_close(gathered, whole, atol=2e-5, rtol=0)
    loaded = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "several" / "final"))
    ids = some_ids(32, 12)[:8]
    assert not torch.equal(logits_of(loaded, ids), logits_of(tiny_model(), ids))


@pytest.mark.slow
def test_sharded_training_is_continued(tmp_path: Path) -> None:
    """The state of rows is gathered into the checkpoint and cut again."""
    at_once = trained(tmp_path / "whole", "hashed", 2)
    trained(tmp_path / "cut", "hashed", 2, steps=3)
    continued = trained(tmp_path / "cut", "hashed", 2, resume=str(tmp_path / "cut" / "checkpoint-3"))
    assert continued["losses"][-3:] == pytest.approx(at_once["losses"][-3:], abs=1e-5)
    torch.testing.assert_close(
        weights(tmp_path / "cut" / "final"), weights(tmp_path / "whole" / "final"), atol=2e-5, rtol=0
    )
