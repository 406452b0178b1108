"""Two processes watch and hold as one does: the same gradient, the same figures, the same step at which they stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import gc, json, os, sys
from pathlib import Path
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments
from tests.watching.watched import QUESTIONS, TEXTS, forgotten, rows, spread
from tinyengram import ForgettingCallback, HoldToBase
from tinyengram.training.holding import answered_by_base
from tinyengram.training.unanswerable import HeldPrompt

class Held(HoldToBase, Trainer):
    pass

folder = Path(sys.argv[1])
processes = int(os.environ["WORLD_SIZE"])
base = spread()
held = answered_by_base(base.model, [HeldPrompt([65 + i, 66, 67]) for i in range(8)], pad_token_id=0, new_tokens=4)
torch.manual_seed(0)
model = get_peft_model(base.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
arguments = TrainingArguments(
    output_dir=str(folder), max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2 // processes,
    learning_rate=1e-2, logging_steps=1, eval_strategy="steps", eval_steps=1, save_strategy="no", report_to="none",
    disable_tqdm=True, use_cpu=True, ddp_find_unused_parameters=False,
)
trainer = Held(
    model, arguments, train_dataset=rows(40), eval_dataset=rows(4), processing_class=base.tokenizer, held=held,
    hold_weight=2.0,
    data_collator=lambda batch: {name: torch.tensor([row[name] for row in batch]) for name in batch[0]},
)
trainer.add_callback(
    ForgettingCallback(trainer, texts=TEXTS, questions=QUESTIONS, stop_above=float(sys.argv[2]), keep_best_under=1.0)
)
trainer.train()
if trainer.is_world_process_zero():
    found = {
        "figures": list(forgotten(trainer).values()),
        "held": [entry["hold_divergence"] for entry in trainer.state.log_history if "loss" in entry],
        "weights": [p.detach().flatten()[:5].tolist() for p in model.parameters() if p.requires_grad],
    }
    (folder / "found.json").write_text(json.dumps(found))
trainer.accelerator.wait_for_everyone()
gc.collect()  # What the wrappers hold of the process group.
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
sys.stderr.flush()
# Gloo's threads may still hold a tensor of the last collective; freed while Python ends, it aborts the process.
os._exit(0)
"""


def run(folder: Path, processes: int, stop_above: float) -> dict[str, list]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(_SCRIPT)
    root = Path(__file__).parents[2]
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script), str(folder), str(stop_above)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one", 1, 9.0), run(tmp_path / "two", 2, 9.0)
    assert len(one["figures"]) == len(two["figures"]) == 6
    for ours, theirs in zip(two["figures"], one["figures"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-4)
    assert two["held"] == pytest.approx(one["held"], rel=1e-2, abs=1e-5)
    assert [w for row in two["weights"] for w in row] == pytest.approx(
        [w for row in one["weights"] for w in row], rel=1e-2, abs=1e-4
    )
    kl = [figures["eval_forgetting_kl"] for figures in one["figures"]]
    assert kl[1] < kl[2]
    stopped = run(tmp_path / "stopped", 2, (kl[1] + kl[2]) / 2)
    assert len(stopped["figures"]) == 3
    assert (tmp_path / "stopped" / "kept" / "forgetting.json").exists()
