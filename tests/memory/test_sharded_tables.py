"""Tables that lie on ranks, under Trainer with gloo: what several processes train and save is what one does."""

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

from tests.memory.test_sharding import weights
from tests.memory.tiny import logits_of, some_ids, tiny_model
from tinyengram.memory.exchange import Shard

SCRIPT = """
import json, os, sys
import torch
from peft import PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments
from tests.memory.tiny import some_ids, tiny_config, tiny_model
from tinyengram import EngramConfig, collect_ngrams
from tinyengram.errors import TinyEngramError
from tinyengram.memory.exchange import sharded

out, kind = sys.argv[1], sys.argv[2]
ranks = int(os.environ.get("WORLD_SIZE", "1"))
torch.manual_seed(0)
memory = {}
if kind == "exact":  # Most texts hold no known n-gram, so that some ranks read nothing.
    memory = {"memory": "exact", "ngrams": collect_ngrams(some_ids(32, 12)[:3].tolist(), orders=(2, 3), pad_token_id=0)}
if kind == "latched":
    memory = {"open_after": some_ids(32, 12)[:16:2, 3:5].tolist()}  # Most texts leave it shut.
model = get_peft_model(tiny_model(), tiny_config(tables_on="ranks", **memory))
ids = some_ids(32, 12)
examples = [{"input_ids": row, "labels": row} for row in ids]
arguments = TrainingArguments(
    output_dir=out, max_steps=6, learning_rate=1e-2, lr_scheduler_type="constant", use_cpu=True, seed=0,
    per_device_train_batch_size=4 // ranks, report_to="none", disable_tqdm=True, logging_steps=1, save_steps=3,
    gradient_checkpointing=kind == "latched", max_grad_norm=0.5, eval_strategy="steps", eval_steps=3,
)
trainer = Trainer(model=model, args=arguments, train_dataset=examples, eval_dataset=examples[:7])
trainer.train()
refused = []


def expect(do):
    try:
        do()
    except TinyEngramError as error:
        refused.append(str(error))


if ranks > 1 and kind == "hashed":
    expect(lambda: model.generate(input_ids=ids[:1], max_new_tokens=2))
    expect(lambda: trainer.optimizer.load_state_dict(trainer.optimizer.state_dict()))
    expect(lambda: get_peft_model(tiny_model(), tiny_config(tables_on="ranks", init="paper")))
    model(input_ids=ids[:2], labels=ids[:2]).loss.backward()  # What was gathered for the checkpoint is out of date.
    expect(lambda: model.save_pretrained(out + "/alone"))
    expect(lambda: Trainer(model=model, args=TrainingArguments(
        output_dir=out, use_cpu=True, report_to="none", optim="adafactor"), train_dataset=examples).create_optimizer())
trainer.save_model(out + "/final")
torch.distributed.barrier() if ranks > 1 else None
if kind == "hashed":
    again = PeftModel.from_pretrained(tiny_model(), out + "/final", config=EngramConfig.from_pretrained(
        out + "/final", tables_on="ranks"), is_trainable=True)
    own, loaded = model.state_dict(), again.state_dict()
    assert all(torch.equal(loaded[name], own[name]) for name in own if "tables" in name)
numbers = sum(p.numel() for name, p in model.named_parameters() if name.endswith("tables.weight"))
if int(os.environ.get("RANK", "0")) == 0:
    log = trainer.state.log_history
    print(json.dumps({
        "losses": [entry["loss"] for entry in log if "loss" in entry],
        "norms": [entry["grad_norm"] for entry in log if "grad_norm" in entry],
        "eval": [entry["eval_loss"] for entry in log if "eval_loss" in entry],
        "numbers": numbers, "refused": refused, "optimizer": type(trainer.optimizer.optimizer).__name__,
    }), flush=True)
if ranks > 1:
    torch.distributed.barrier()
os._exit(0)
"""


def trained(out: Path, kind: str, ranks: int) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(out), kind],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{Path.cwd() / 'src'}", "OMP_NUM_THREADS": "1"},
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "ranks"), [("hashed", 2), ("hashed", 4), ("exact", 4), ("latched", 2)])
def test_training_on_ranks_is_that_of_one_process(kind: str, ranks: int, tmp_path: Path) -> None:
    one, several = trained(tmp_path / "one", kind, 1), trained(tmp_path / "several", kind, ranks)
    assert one["optimizer"] == several["optimizer"] == "RowSparseAdamW"
    assert several["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert several["norms"] == pytest.approx(one["norms"], rel=1e-4)
    assert len(several["eval"]) == 2
    assert several["numbers"] < one["numbers"] * 1.1 / ranks
    for folder in ("final", "checkpoint-3"):
        whole, gathered = weights(tmp_path / "one" / folder), weights(tmp_path / "several" / folder)
        assert whole.keys() == gathered.keys()
        torch.testing.assert_close(gathered, whole, atol=2e-5, rtol=0)
    loaded = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "several" / "final"))
    ids = some_ids(32, 12)[:8]
    assert not torch.equal(logits_of(loaded, ids), logits_of(tiny_model(), ids))
    if kind == "hashed":
        said = ["with a cache", "cannot be resumed", "init='paper'", "cannot save them alone", "optim=adafactor"]
        assert all(words in message for words, message in zip(said, several["refused"], strict=True)), several


def test_every_row_lies_on_one_rank() -> None:
    rows = torch.arange(11)
    shards = [Shard(11, rank, 4) for rank in range(4)]
    assert [shard.held for shard in shards] == [3, 3, 3, 2]
    for shard in shards:
        own, values = shard.own(rows, rows)
        assert own.tolist() == list(range(shard.held))
        assert (own * 4 + shard.rank).tolist() == values.tolist()


def test_more_ranks_than_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(Exception, match="7 rows cannot be cut over 8 ranks"):
        Shard.of_process(7)
