"""Engram where PEFT users expect a method to work: loading, other adapters, Trainer, TRL, pipelines, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments, pipeline

from tests.memory.tiny import VOCABULARY, logits_of, some_ids, stir, tiny_config, tiny_model, trained_memory
from tinyengram import collect_ngrams
from tinyengram.memory.optim import row_sparse_adamw
from tinyengram.sources import load_base

KNOWN = collect_ngrams(some_ids(6, 40, seed=7).tolist(), orders=(2, 3))


@pytest.fixture
def saved_base(tmp_path: Path) -> str:
    tiny_model().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


class TestLoading:
    def test_auto_peft_model_loads_base_and_memory(self, saved_base: str, tmp_path: Path) -> None:
        model, ids = trained_memory(), some_ids()
        model.peft_config["default"].base_model_name_or_path = saved_base
        model.save_pretrained(tmp_path / "adapter")
        again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))

    @pytest.mark.parametrize("memory", ["hashed", "exact"])
    def test_low_cpu_mem_usage(self, tmp_path: Path, memory: str) -> None:
        options: dict[str, Any] = {"memory": "exact", "ngrams": KNOWN} if memory == "exact" else {}
        model, ids = trained_memory(**options), some_ids(6, 40, seed=7)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(tiny_model(), tmp_path, low_cpu_mem_usage=True)
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))

    def test_the_folder_is_laid_out_as_the_hub_expects(self, tmp_path: Path) -> None:
        trained_memory().save_pretrained(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "README.md",
        }
        assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "ENGRAM"
        assert all("default" not in key for key in load_file(tmp_path / "adapter_model.safetensors"))

    def test_modules_to_save_are_trained_and_saved_whole(self, tmp_path: Path) -> None:
        model, ids = get_peft_model(tiny_model(), tiny_config(modules_to_save=["lm_head"])), some_ids()
        stir(model)
        head = model.base_model.model.lm_head.modules_to_save["default"].weight
        assert head.requires_grad
        with torch.no_grad():
            head.add_(1.0)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(tiny_model(), tmp_path)
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))

    def test_a_half_precision_base_carries_a_float32_memory(self) -> None:
        model, ids = get_peft_model(tiny_model().to(torch.bfloat16), tiny_config()), some_ids()
        memories = [p for n, p in model.named_parameters() if "engram_" in n]
        assert {p.dtype for p in memories} == {torch.float32}
        plain = logits_of(tiny_model().to(torch.bfloat16), ids)
        assert torch.equal(logits_of(model, ids), plain)
        stir(model)
        assert logits_of(model, ids).dtype == torch.bfloat16
        assert not torch.allclose(logits_of(model, ids), plain)

    def test_loading_needs_no_tokenizer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        base = load_base("tiny-random-llama")
        options = {"tokenizer_name_or_path": base.tokenizer.name_or_path}
        model = get_peft_model(base.model, tiny_config(**options))
        stir(model)
        model.save_pretrained(tmp_path)
        monkeypatch.setattr(
            "transformers.AutoTokenizer.from_pretrained", lambda *_, **__: pytest.fail("tokenizer used")
        )
        again = PeftModel.from_pretrained(_fresh_tiny_random_llama(), tmp_path)
        ids = some_ids()
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))


def _fresh_tiny_random_llama() -> Any:
    from transformers import AutoModelForCausalLM

    from tinyengram.sources import cache_dir

    return AutoModelForCausalLM.from_pretrained(cache_dir() / "models" / "tiny-random-llama").eval()


class TestBesideOthers:
    def test_engram_on_top_of_lora(self) -> None:
        ids = some_ids()
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        with_lora = get_peft_model(tiny_model(), lora)
        plain = logits_of(with_lora, ids)
        both = get_peft_model(with_lora, tiny_config(), adapter_name="memory")
        assert torch.equal(logits_of(both, ids), plain)
        stir(both)
        together = logits_of(both, ids)
        assert not torch.allclose(together, plain)
        both.set_adapter("memory")
        assert torch.equal(logits_of(both, ids), together)
        uncached = both.generate(input_ids=ids, max_new_tokens=8, do_sample=False, use_cache=False)
        assert torch.equal(both.generate(input_ids=ids, max_new_tokens=8, do_sample=False), uncached)

    def test_two_memories_together_leave_each_others_texts_alone(self) -> None:
        first_texts = (some_ids(3, 20, seed=1) % 40 + 3).tolist()
        second_texts = (some_ids(3, 20, seed=2) % 40 + 50).tolist()
        model = get_peft_model(
            tiny_model(), tiny_config(memory="exact", ngrams=collect_ngrams(first_texts, orders=(2, 3))), "first"
        )
        model.add_adapter("second", tiny_config(memory="exact", ngrams=collect_ngrams(second_texts, orders=(2, 3))))
        model.base_model.set_adapter(["first", "second"])
        stir(model)
        together = [logits_of(model, torch.tensor(texts)) for texts in (first_texts, second_texts)]
        for name, texts, both in zip(("first", "second"), (first_texts, second_texts), together, strict=True):
            model.base_model.set_adapter([name])
            alone = logits_of(model, torch.tensor(texts))
            assert torch.equal(alone, both)
            assert not torch.equal(alone, logits_of(tiny_model(), torch.tensor(texts)))


def trainer_on(model: Any, folder: Path, *, rows: bool, max_steps: int = 6) -> Trainer:
    examples = [{"input_ids": ids, "labels": ids} for ids in some_ids(16, 12, seed=5).tolist()]
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=max_steps,
        learning_rate=1e-2,
        save_steps=3,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    optimizers = (row_sparse_adamw(model, 1e-2), None) if rows else (None, None)
    return Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(examples), optimizers=optimizers)


class TestTraining:
    @pytest.mark.parametrize("rows", [False, True])
    def test_trainer_resumes_to_the_bit(self, tmp_path: Path, rows: bool) -> None:
        def fresh() -> Any:
            torch.manual_seed(0)
            return get_peft_model(tiny_model(), tiny_config())

        whole = fresh()
        trainer_on(whole, tmp_path / "whole", rows=rows).train()
        assert not torch.equal(logits_of(whole.eval(), some_ids()), logits_of(tiny_model(), some_ids()))
        again = fresh()
        trainer_on(again, tmp_path / "again", rows=rows).train(
            resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3")
        )
        assert torch.equal(logits_of(again.eval(), some_ids()), logits_of(whole, some_ids()))

    def test_trl_sft_trainer(self, tmp_path: Path) -> None:
        from trl import SFTConfig, SFTTrainer

        base = load_base("tiny-random-llama")
        texts = Dataset.from_list([{"text": f"The key number {number} is under the pot."} for number in range(8)])
        trainer = SFTTrainer(
            model=base.model,
            processing_class=base.tokenizer,
            train_dataset=texts,
            peft_config=tiny_config(),
            args=SFTConfig(
                output_dir=str(tmp_path),
                max_steps=4,
                learning_rate=1e-2,
                per_device_train_batch_size=2,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                bf16=False,
            ),
        )
        trainer.train()
        tables = [p for n, p in trainer.model.named_parameters() if n.endswith("tables.weight")]
        assert tables
        assert all(bool(table.any()) for table in tables)
        trainer.save_model(str(tmp_path / "adapter"))
        again = PeftModel.from_pretrained(_fresh_tiny_random_llama(), tmp_path / "adapter")
        ids = some_ids()
        torch.testing.assert_close(logits_of(again.eval(), ids), logits_of(trainer.model.eval(), ids))

    def test_pipeline(self) -> None:
        base = load_base("tiny-random-llama")
        model = get_peft_model(base.model, tiny_config())
        stir(model)
        prompt = base.tokenizer("Hello", return_tensors="pt")
        wanted = model.generate(**prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)
        written = pipeline("text-generation", model=model, tokenizer=base.tokenizer)(
            "Hello", max_new_tokens=6, do_sample=False, return_full_text=False
        )[0]["generated_text"]
        assert written == base.tokenizer.decode(wanted[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


_PARALLEL = """
import gc
import os
import sys
import torch
import torch.distributed as dist
from peft import get_peft_model
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments
from tests.memory.tiny import some_ids, tiny_config, tiny_model
from tinyengram.memory.optim import parameter_groups, row_sparse_adamw

def train(mode):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(), tiny_config())
    if mode == "fsdp":
        from torch.distributed.fsdp import fully_shard
        for module in model.modules():
            if type(module).__name__ == "EngramLayer":
                fully_shard(module)
        wrapped = fully_shard(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    elif mode == "trainer":
        examples = [{"input_ids": ids, "labels": ids} for ids in some_ids(16, 12, seed=5).tolist()]
        arguments = TrainingArguments(output_dir=f"{folder}/{ranks}", max_steps=4, learning_rate=1e-2, use_cpu=True,
                                      per_device_train_batch_size=4 // ranks, report_to="none", disable_tqdm=True)
        trainer = Trainer(model=model, args=arguments, train_dataset=examples)
        trainer.train()
        assert type(trainer.optimizer.optimizer).__name__ == "RowSparseAdamW"
        assert all(module.sparse for name, module in model.named_modules() if name.endswith("default.tables"))
        return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    else:
        groups = parameter_groups(model, 1e-2)
        optimizer = row_sparse_adamw(model, 1e-2) if mode == "rows" else torch.optim.AdamW(groups)
        wrapped = DistributedDataParallel(model)
    for step in range(4):
        ids = some_ids(4, 12, seed=step)[rank::ranks]
        loss = wrapped(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if mode == "fsdp":
        assert loss.item() == loss.item()
        sharded = [p for n, p in model.named_parameters() if n.endswith("tables.weight")]
        assert sharded and all(type(p).__name__ == "DTensor" for p in sharded), [type(p) for p in sharded]
        assert all(bool(p.full_tensor().any()) for p in sharded)
        return {"done": torch.ones(1)}
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

mode, folder = sys.argv[1:]
dist.init_process_group("gloo")
state = train(mode)
if dist.get_rank() == 0:
    torch.save(state, f"{folder}/{mode}-{dist.get_world_size()}.pt")
dist.barrier()
gc.collect()  # What the wrappers hold of the process group.
dist.destroy_process_group()
sys.stderr.flush()
# Gloo's threads may still hold a tensor of the last collective; freed while Python ends, it aborts the process.
os._exit(0)
"""


def run_parallel(tmp_path: Path, mode: str, processes: int) -> dict[str, torch.Tensor]:
    script = tmp_path / "parallel.py"
    script.write_text(_PARALLEL)
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script), mode, str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}", "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(tmp_path / f"{mode}-{processes}.pt", weights_only=True)


@pytest.mark.parametrize(
    "mode", [*(pytest.param(mode, marks=pytest.mark.slow) for mode in ("dense", "trainer")), "rows"]
)
def test_two_processes_train_what_one_does(tmp_path: Path, mode: str) -> None:
    one, two = run_parallel(tmp_path, mode, 1), run_parallel(tmp_path, mode, 2)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        # Adam makes a step of full size from a gradient that is rounding noise; four steps are 0.04 or more.
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=5e-4)


@pytest.mark.slow  # test_sharding trains under FSDP2 as Trainer does.
def test_fsdp_wraps_and_steps(tmp_path: Path) -> None:
    assert run_parallel(tmp_path, "fsdp", 2)["done"]


def test_vocabulary_of_the_tiny_base_holds_the_tests_ids() -> None:
    assert load_base("tiny-random-llama").model.config.vocab_size >= VOCABULARY
