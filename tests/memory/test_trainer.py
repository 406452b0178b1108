"""Trainer and TRL train a memory as it wants to be, without a line of their user's, and other models as ever."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.memory.tiny import some_ids, tiny_config, tiny_model
from tinyengram import collect_ngrams, processes
from tinyengram.memory.adamw import RowSparseAdamW
from tinyengram.memory.optim import for_trainer, parameter_groups, row_sparse_adamw
from tinyengram.sources import load_base

RATE = 1e-2
ARGUMENTS: dict[str, Any] = {
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
# Each has tokens that no other has, so that each step reads rows of its own.
IDS = [((some_ids(1, 12, seed=5)[0] % 5) + 6 * number + 3).tolist() for number in range(12)]
EXAMPLES = [{"input_ids": ids, "labels": ids} for ids in IDS]


class Watch(TrainerCallback):
    """Notes the tables before each step, what their gradients were, and the tables after it."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[torch.Tensor, Any, torch.Tensor]]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.before = [(table.detach().clone(), table.grad.clone()) for table in tables_of(model)]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        after = [table.detach().clone() for table in tables_of(model)]
        self.steps.append([(*before, table) for before, table in zip(self.before, after, strict=True)])


def tables_of(model: Any) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.endswith("tables.weight") and p.requires_grad]


def memory(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {} if "ngrams" in options else {"engram_vocab_size": [600, 300]}
    return get_peft_model(tiny_model(), tiny_config(**sizes, **options))


def plain_trainer(model: Any, folder: Path, steps: int = 1, **options: Any) -> Trainer:
    given = {name: options.pop(name) for name in ("optimizers",) if name in options}
    arguments = TrainingArguments(output_dir=str(folder), max_steps=steps, **{**ARGUMENTS, **options})
    data = Dataset.from_list(EXAMPLES)
    return Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Watch()], **given)


def sft_trainer(folder: Path, steps: int = 1, **options: Any) -> Trainer:
    from trl import SFTConfig, SFTTrainer

    base = load_base("tiny-random-llama")
    texts = [{"text": f"{10**number} {number} {2**number} {3**number}"} for number in range(12)]
    return SFTTrainer(
        model=base.model,
        processing_class=base.tokenizer,
        train_dataset=Dataset.from_list(texts),
        peft_config=tiny_config(engram_vocab_size=[600, 300], **options),
        args=SFTConfig(output_dir=str(folder), max_steps=steps, bf16=False, **ARGUMENTS),
        callbacks=[Watch()],
    )


def a_trainer(kind: str, folder: Path, steps: int = 1, **options: Any) -> Trainer:
    if kind == "SFTTrainer":
        return sft_trainer(folder, steps, **options)
    return plain_trainer(memory(**options), folder, steps)


def watched(trainer: Trainer) -> Watch:
    trainer.train()
    return next(one for one in trainer.callback_handler.callbacks if isinstance(one, Watch))


@pytest.mark.parametrize("kind", ["Trainer", "SFTTrainer"])
def test_tables_take_steps_of_their_own_size(kind: str, tmp_path: Path) -> None:
    """Adam's first step is as long as the learning rate."""
    for factor in (1.0, 5.0):
        options = {} if factor == 5 else {"table_learning_rate_factor": factor}  # It is the default.
        for before, _, after in watched(a_trainer(kind, tmp_path, **options)).steps[0]:
            assert (after - before).abs().max() == pytest.approx(RATE * factor, rel=1e-3)


@pytest.mark.parametrize("kind", ["Trainer", "SFTTrainer"])
def test_only_rows_that_were_read_have_a_gradient_and_move(kind: str, tmp_path: Path) -> None:
    steps = watched(a_trainer(kind, tmp_path, 4)).steps
    assert len(steps) == 4
    resting = 0
    for number, step in enumerate(steps):
        for table, (before, gradient, after) in enumerate(step):
            assert gradient.is_sparse
            read = torch.zeros(len(before), dtype=torch.bool)
            read[gradient.coalesce().indices()[0]] = True
            assert torch.equal(before[~read], after[~read])
            assert not torch.equal(before[read], after[read])
            if number:
                earlier, _, later = steps[number - 1][table]
                resting += int(((earlier != later).any(1) & ~read).sum())
    assert resting, "no row of the step before was left out, which dense AdamW would have moved on"


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_it_is_said_by_name(optim: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tinyengram"):
        trainer = plain_trainer(memory(), tmp_path, optim=optim)
        trainer.create_optimizer()
        trainer.create_optimizer()
    (said,) = caplog.messages
    assert said.startswith("RowSparseAdamW trains the Engram memory: its tables at a learning rate of 0.05, ")
    assert type(trainer.optimizer) is RowSparseAdamW
    assert not any(group["fused"] for group in trainer.optimizer.param_groups), "float16 gradients are scaled by torch"


def test_the_arguments_are_heard(tmp_path: Path) -> None:
    trainer = plain_trainer(memory(), tmp_path, adam_beta1=0.8, adam_beta2=0.7, adam_epsilon=1e-5, weight_decay=0.3)
    groups = trainer.create_optimizer().param_groups
    assert {(group["betas"], group["eps"]) for group in groups} == {((0.8, 0.7), 1e-5)}
    assert [group["weight_decay"] for group in groups] == [0.3, 0, 0]


@pytest.mark.parametrize("optim", ["sgd", "adafactor"])
def test_another_optimizer_stays_with_dense_gradients_and_the_tables_rate(optim: str, tmp_path: Path) -> None:
    model = memory()
    plain_trainer(model, tmp_path).create_optimizer()  # AdamW asked for sparse gradients.
    trainer = plain_trainer(model, tmp_path, optim=optim)
    steps = watched(trainer).steps
    assert all(not gradient.is_sparse for step in steps for _, gradient, _ in step)
    assert not isinstance(trainer.optimizer.optimizer, RowSparseAdamW)
    for group in trainer.optimizer.param_groups:
        of_tables = any(one is table for one in group["params"] for table in tables_of(model))
        assert group["lr"] == pytest.approx(RATE * (5 if of_tables else 1))


def made_by_itself(model: Any, **_: Any) -> None:
    raise AssertionError("not to be called here")


@pytest.mark.parametrize(
    ("optimizer", "options"), [(torch.optim.AdamW, {"lr": 1.0, "params": []}), (made_by_itself, {"lr": 1.0})]
)
def test_an_optimizer_with_groups_of_its_own_is_left_alone_with_a_warning(
    optimizer: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model, arguments = memory(), SimpleNamespace(optim="galore_adamw", learning_rate=1.0, weight_decay=0.0)
    assert for_trainer(model, arguments, optimizer, options) == (optimizer, options)
    assert "optim=galore_adamw makes groups" in caplog.text


def test_a_users_own_optimizer_is_theirs(tmp_path: Path) -> None:
    model = memory()
    own = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    trainer = plain_trainer(model, tmp_path, optimizers=(own, None))
    steps = watched(trainer).steps
    assert trainer.optimizer.optimizer is own
    assert all(not gradient.is_sparse for _, gradient, _ in steps[0])


def test_a_model_without_a_memory_is_trained_as_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory()
    lora = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear"))
    with caplog.at_level(logging.INFO, logger="tinyengram"):
        optimizer = plain_trainer(lora, tmp_path).create_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    assert len(optimizer.param_groups) == 2
    assert not caplog.messages
    untrained = memory()
    untrained.requires_grad_(False)
    assert type(plain_trainer(untrained, tmp_path).create_optimizer()) is torch.optim.AdamW


def test_sharded_parameters_keep_dense_gradients_and_torchs_adamw() -> None:
    model = memory()
    row_sparse_adamw(model, RATE)
    state = SimpleNamespace(distributed_type=DistributedType.FSDP)
    arguments = SimpleNamespace(optim="adamw_torch", learning_rate=RATE, weight_decay=0.1, distributed_state=state)
    optimizer, options = for_trainer(model, arguments, torch.optim.AdamW, {"lr": RATE, "fused": True})
    assert optimizer is torch.optim.AdamW
    assert options["fused"]
    assert [group["lr"] for group in options["params"]] == [group["lr"] for group in parameter_groups(model, RATE)]
    assert not any(module.sparse for module in model.modules() if isinstance(module, torch.nn.Embedding))


def test_where_sparse_gradients_cannot_be_exchanged_the_same_is_trained(tmp_path: Path, monkeypatch) -> None:
    # Exact, since there no two n-grams share a row: one that ends a text is read, but its gradient is zero.
    known = collect_ngrams(IDS, orders=(2, 3))
    sparse, dense = (memory(memory="exact", ngrams=known) for _ in range(2))
    plain_trainer(sparse, tmp_path, 4).train()
    monkeypatch.setattr(processes, "exchanges_sparse_gradients", lambda: False)
    steps = watched(plain_trainer(dense, tmp_path, 4)).steps
    assert all(not gradient.is_sparse for step in steps for _, gradient, _ in step)
    for one, other in zip(tables_of(dense), tables_of(sparse), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
