"""Each thing that is relied on inside transformers and PEFT is as `host` says, whichever versions are installed."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from torch import distributed
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaForCausalLM,
    LlamaModel,
    Trainer,
    TrainingArguments,
    trainer_optimizer,
)
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.utils import ModelOutput

from tests.memory.tiny import ARCHITECTURES, logits_of, on, some_ids, stir, tiny_config, tiny_model, train_briefly
from tinyengram import EngramConfig, host, processes
from tinyengram.memory import EngramModel
from tinyengram.scoring.choices import ChoiceRequest, choice_log_likelihoods
from tinyengram.sources import load_base

LLAMAS_NAME = host.cache_argument(LlamaModel)


@dataclass
class OldOutput(ModelOutput):
    last_hidden_state: torch.Tensor | None = None
    past_key_values: Any = None


@dataclass
class NewOutput(ModelOutput):
    last_hidden_state: torch.Tensor | None = None
    cache: Any = None


class OldNames(LlamaModel):
    """A decoder with code of its own, as on the Hub, that calls the cache by its old name."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **options):
        options[LLAMAS_NAME] = past_key_values
        output = super().forward(input_ids, attention_mask, position_ids, **options)
        return OldOutput(output.last_hidden_state, host.cache_of(output))


class NewNames(LlamaModel):
    """The same with the new name."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, **options):
        options[LLAMAS_NAME] = cache
        output = super().forward(input_ids, attention_mask, position_ids, **options)
        return NewOutput(output.last_hidden_state, host.cache_of(output))


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_a_model_takes_a_cache_and_gives_one_back_under_a_known_name(model_type: str) -> None:
    model, ids = tiny_model(model_type), some_ids()
    cache = host.empty_cache(model)
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True, **on(model, cache))
    assert host.cache_of(output) is cache
    assert cache.get_seq_length() == ids.shape[1]
    with torch.no_grad():
        assert host.cache_of(model(input_ids=ids, use_cache=False)) is None


@pytest.mark.parametrize(("decoder", "name"), [(OldNames, "past_key_values"), (NewNames, "cache")])
def test_a_memory_reads_models_of_either_name(decoder: type[LlamaModel], name: str) -> None:
    base, ids = tiny_model(), some_ids(length=24)
    model = get_peft_model(base, tiny_config())
    stir(model)
    wanted = logits_of(model, ids)
    other = tiny_model()
    other.model.__class__ = decoder
    memory = get_peft_model(other, tiny_config())
    stir(memory)
    inner = memory.base_model.model.model
    assert host.cache_argument(inner) == name
    cache, parts = DynamicCache(config=other.config), []
    with torch.no_grad():
        for part in ids.split([9, 1, 14], dim=1):
            output = inner(input_ids=part, use_cache=True, **{name: cache})
            parts.append(other.lm_head(output.last_hidden_state))
    torch.testing.assert_close(torch.cat(parts, dim=1), wanted, atol=2e-4, rtol=1e-4)
    # A cache that the decoder makes itself comes back by its output, and is read on from.
    with torch.no_grad():
        first = inner(input_ids=ids[:, :12], use_cache=True)
        second = inner(input_ids=ids[:, 12:], use_cache=True, **{name: host.cache_of(first)})
    torch.testing.assert_close(other.lm_head(second.last_hidden_state), wanted[:, 12:], atol=2e-4, rtol=1e-4)


def test_no_deprecated_name_is_used_where_the_new_one_exists(recwarn) -> None:
    base = load_base("tiny-random-llama")
    requests = [ChoiceRequest("a", "The sky is", (" blue", " made of stone")), ChoiceRequest("b", "The sky", (" is",))]
    choice_log_likelihoods(base.model, base.tokenizer, requests)
    assert not [str(one.message) for one in recwarn if "deprecated" in str(one.message)]


def test_a_model_without_a_cache_is_refused_by_name() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(host.HostError, match=r"Linear takes no key-value cache.*transformers \d"):
        host.cache_argument(model)


def test_a_memory_on_a_model_without_a_cache_is_refused_before_it_is_made() -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "attention_hidden_size": 32}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("rwkv", **sizes))
    with pytest.raises(ValueError, match="takes no key-value cache"):
        get_peft_model(model, EngramConfig(layer_ids=[1], task_type="CAUSAL_LM"))


def test_the_arguments_of_a_peft_model_are_those_of_its_base() -> None:
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear"))
    assert host.cache_argument(model) == host.cache_argument(LlamaForCausalLM)
    assert host.takes_argument(model, "logits_to_keep")
    assert not host.takes_argument(model, "pixel_values")


def test_caches_are_told_by_their_kind() -> None:
    assert host.has_layers(DynamicCache())
    assert not host.has_layers(PagedAttentionCache.__new__(PagedAttentionCache))
    assert not host.has_layers(((torch.zeros(1), torch.zeros(1)),))
    assert not host.has_layers(None)
    assert host.keeps_every_token(host.empty_cache(tiny_model()))
    assert not host.keeps_every_token(host.empty_cache(tiny_model("mistral", sliding_window=8)))


def test_a_cache_that_grows_is_given_its_layers() -> None:
    cache = DynamicCache()
    host.make_missing_layers(cache, 3)
    host.make_missing_layers(cache, 3)
    assert len(cache.layers) == 3
    keys = torch.zeros(1, 2, 4, 8)
    cache.update(keys, keys, 2)
    assert cache.layers[2].keys.shape == keys.shape


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_blocks_are_found_by_structure(model_type: str) -> None:
    model = tiny_model(model_type)
    decoder, blocks = host.find_blocks(model)
    assert len(model.get_submodule(blocks)) == 4
    assert blocks.startswith(decoder)
    assert host.takes_argument(model.get_submodule(decoder), "input_ids")


def test_every_hook_of_a_tuner_exists_and_is_overridden_with_its_arguments() -> None:
    for hook in host.TUNER_HOOKS:
        theirs, ours = getattr(BaseTuner, hook), getattr(EngramModel, hook)
        assert ours.__qualname__.startswith("EngramModel."), hook
        names = [name for name, one in inspect.signature(theirs).parameters.items() if one.kind is not one.VAR_KEYWORD]
        kinds = {one.kind for one in inspect.signature(ours).parameters.values()}
        takes_any = inspect.Parameter.VAR_KEYWORD in kinds
        missing = [name for name in names if name not in inspect.signature(ours).parameters]
        assert takes_any or not missing, (hook, missing)


def test_a_peft_model_looks_for_the_hook_around_a_forward_pass() -> None:
    assert f"self.base_model.{host.FORWARD_HOOK}(" in inspect.getsource(PeftModel)
    assert callable(getattr(EngramModel, host.FORWARD_HOOK))


def test_a_hook_that_peft_lost_is_named(monkeypatch) -> None:
    monkeypatch.setattr(host, "TUNER_HOOKS", (*host.TUNER_HOOKS, "_gone"))
    with pytest.raises(host.HostError, match=r"_gone.*peft \d"):
        host.register_method("ENGRAM", EngramConfig, EngramModel)


def test_methods_are_known_by_lower_case_names() -> None:
    methods = host.peft_methods()
    assert methods["lora"] is LoraConfig
    assert methods["engram"] is EngramConfig


@pytest.fixture
def handlers(monkeypatch) -> dict[str, Any]:
    """Trainer's table of optimizers as transformers made it, for one test."""
    plain = {
        name: make.make if isinstance(make, host.AdaptedOptimizer) else make
        for name, make in trainer_optimizer._OPTIMIZER_HANDLERS.items()
    }
    table = trainer_optimizer._OPTIMIZER_HANDLERS
    for name, make in plain.items():
        monkeypatch.setitem(table, name, make)
    return table


def test_trainer_makes_the_optimizer_that_was_adapted(handlers, tmp_path) -> None:
    model, asked = torch.nn.Linear(2, 2), []

    def adapt(*what: Any) -> tuple[Any, dict[str, Any]]:
        asked.append(what)
        return torch.optim.SGD, {"lr": 0.25, "params": [{"params": [model.bias], "lr": 0.5}]}

    host.adapt_optimizers(adapt)
    host.adapt_optimizers(adapt)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim="adamw_torch", learning_rate=0.1)
    optimizer = Trainer(model=model, args=arguments).create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["params"], group["lr"]) == ([model.bias], 0.5)
    ((given, its_arguments, theirs, options),) = asked  # Once, though it was called twice.
    assert (given, its_arguments, theirs) == (model, arguments, torch.optim.AdamW)
    assert options["lr"] == 0.1


def test_every_optimizer_of_trainer_is_adapted_once_there_is_a_memory(handlers) -> None:
    assert not any(isinstance(make, host.AdaptedOptimizer) for make in handlers.values())
    get_peft_model(tiny_model(), tiny_config())
    assert all(isinstance(make, host.AdaptedOptimizer) for make in handlers.values())
    assert {"adamw_torch", "adamw_torch_fused"} <= set(handlers)


def test_without_trainers_table_a_memory_is_made_with_a_warning(monkeypatch, caplog) -> None:
    monkeypatch.delattr(trainer_optimizer, "_OPTIMIZER_HANDLERS")
    get_peft_model(tiny_model(), tiny_config())
    assert "row_sparse_adamw" in caplog.text


def test_a_run_that_shards_parameters_is_told_by_its_kind(tmp_path) -> None:
    assert set(processes.SHARDING) <= {kind.value for kind in DistributedType}
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert arguments.distributed_state.distributed_type == DistributedType.NO
    assert processes.keeps_parameters_whole(arguments)
    for kind in DistributedType:
        run = SimpleNamespace(distributed_state=SimpleNamespace(distributed_type=kind))
        assert processes.keeps_parameters_whole(run) == (kind.value not in processes.SHARDING)


def test_sparse_gradients_are_exchanged_by_gloo_alone(monkeypatch) -> None:
    assert processes.exchanges_sparse_gradients()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    for backend in ("gloo", "nccl"):
        monkeypatch.setattr(distributed, "get_backend", lambda backend=backend: backend)
        assert processes.exchanges_sparse_gradients() == (backend == "gloo")


class TestTheBaseBeneath:
    @pytest.mark.parametrize(
        ("changes", "below"),
        [
            ({}, True),
            ({"init_lora_weights": "gaussian"}, True),
            ({"init_lora_weights": "orthogonal"}, True),
            ({"init_lora_weights": False}, True),
            ({"init_lora_weights": "pissa"}, False),
            ({"init_lora_weights": "pissa_niter_4"}, False),
            ({"init_lora_weights": "olora"}, False),
            ({"bias": "all"}, False),
        ],
        ids=str,
    )
    def test_is_told_by_what_a_config_does_to_the_weights(self, changes: dict, below: bool) -> None:
        base, ids = tiny_model("gpt_neox"), some_ids()
        before = logits_of(base, ids)
        model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", **changes)).eval()
        train_briefly(model, ids, steps=2)
        with host.adapters_off(model):
            same = torch.equal(logits_of(model, ids), before)
        assert host.base_is_below(model) == same == below

    def test_is_not_there_without_an_adapter(self) -> None:
        assert not host.base_is_below(tiny_model())

    def test_what_was_frozen_stays_so_when_adapters_are_back(self) -> None:
        model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules="all-linear"))
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
        before = [parameter.requires_grad for parameter in model.parameters()]
        with host.adapters_off(model):
            pass
        assert [parameter.requires_grad for parameter in model.parameters()] == before
