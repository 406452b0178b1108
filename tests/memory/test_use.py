"""Ways to use a model that are easy to get wrong: threads, one base twice, several devices, caches of other makers."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from transformers import AutoConfig, AutoModelForSeq2SeqLM, DynamicCache
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from tests.memory.tiny import logits_of, on, some_ids, stir, tiny_config, tiny_model, trained_memory
from tinyengram import collect_ngrams, host
from tinyengram.host import cache_of


def test_threads_do_not_read_each_others_texts() -> None:
    model, texts = trained_memory(), [some_ids(1, 60, seed=5), some_ids(1, 60, seed=8)]
    wanted = [logits_of(model, ids, use_cache=False) for ids in texts]
    wrong: list[int] = []

    def read(which: int) -> None:
        for _ in range(40):
            if not torch.allclose(logits_of(model, texts[which], use_cache=False), wanted[which], atol=1e-4):
                wrong.append(which)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=read, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_stand_alone(copied) -> None:
    model, ids = trained_memory(), some_ids()
    other = copied(model)
    before = logits_of(model, ids)
    stir(other, seed=4)
    assert torch.equal(logits_of(model, ids), before)
    assert not torch.allclose(logits_of(other, ids), before)


def test_one_base_serves_one_memory_after_the_other(tmp_path) -> None:
    base, ids = tiny_model(), some_ids()
    plain = logits_of(base, ids)
    get_peft_model(base, tiny_config(seed=1))
    with pytest.warns(UserWarning, match="which is taken off"):
        model = get_peft_model(base, tiny_config(seed=2))
    assert torch.equal(logits_of(model, ids), plain)
    stir(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))


def test_a_base_can_be_used_after_a_refused_adapter(tmp_path) -> None:
    model, base, ids = trained_memory(), tiny_model(), some_ids()
    model.save_pretrained(tmp_path / "good")
    model.save_pretrained(tmp_path / "bad")
    file = tmp_path / "bad" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        PeftModel.from_pretrained(base, tmp_path / "bad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(base, tmp_path / "good")
    assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))


def test_a_memory_within_a_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="add_adapter"):
        get_peft_model(trained_memory(), tiny_config())


@pytest.mark.parametrize("kind", list(CheckpointImpl))
def test_a_block_run_alone_says_so(kind: CheckpointImpl) -> None:
    """Checkpointing around a block runs it again in the backward pass, when the memory no longer knows the tokens."""
    model, ids = trained_memory().train(), some_ids()
    model.enable_input_require_grads()
    blocks = model.base_model.model.model.layers
    for at in range(len(blocks)):
        blocks[at] = checkpoint_wrapper(blocks[at], checkpoint_impl=kind)
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    with pytest.raises(RuntimeError, match="outside its model's forward pass"):
        loss.backward()


def test_adapters_mixed_within_a_batch_are_refused() -> None:
    model, ids = trained_memory(), some_ids()
    with pytest.raises(ValueError, match="adapter_names"):
        model(input_ids=ids, adapter_names=["__base__", "default"])


@pytest.mark.parametrize("name", host.CACHE_NAMES)
def test_continuous_batching_is_refused_by_its_kind_of_cache(name: str) -> None:
    """Whatever the argument is called that brings it: its paged cache has no list of layers."""
    model, ids = trained_memory().base_model.model, some_ids()
    paged = PagedAttentionCache.__new__(PagedAttentionCache)
    with pytest.raises(ValueError, match=r"PagedAttentionCache.*continuous batching"):
        model.model(input_ids=ids, **{name: paged})


def test_an_encoder_is_refused() -> None:
    sizes = {"vocab_size": 97, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 3, "num_heads": 4}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", decoder_start_token_id=0, **sizes))
    with pytest.raises(ValueError, match="decoder-only"):
        get_peft_model(model, tiny_config(task_type="SEQ_2_SEQ_LM"))


def test_switched_off_it_goes_on_with_any_cache() -> None:
    model, ids = trained_memory(), some_ids()
    base = tiny_model()
    embedded = model.get_input_embeddings()(ids)
    with model.disable_adapter():
        generated = model.generate(
            inputs_embeds=embedded, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
        )
    wanted = base.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert torch.equal(generated, wanted[:, ids.shape[1] :])


@pytest.mark.parametrize("training", [False, True])
def test_the_models_own_cache_can_be_continued(training: bool) -> None:
    model, ids = trained_memory(), some_ids()
    whole = logits_of(model, ids)
    model.train(training)
    with torch.no_grad():
        first = model(input_ids=ids[:, :12], use_cache=True)
        second = model(input_ids=ids[:, 12:], **on(model, cache_of(first)), use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, atol=2e-4, rtol=1e-4)


def test_a_static_cache_of_sliding_layers_beyond_its_window() -> None:
    ids, model = some_ids(2, 12), get_peft_model(tiny_model("mistral", sliding_window=8), tiny_config())
    stir(model)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    wanted = model.generate(input_ids=ids, **options)
    assert torch.equal(model.generate(input_ids=ids, cache_implementation="static", **options), wanted)


def test_a_cache_entry_that_offloading_passes_over() -> None:
    """Offloaded caches bring the layer after the last one back by looking for the next with keys: never this one."""
    model, ids = trained_memory(), some_ids()
    cache = DynamicCache(config=model.config)
    logits_of(model, ids, cache=cache)
    *layers, entry = cache.layers
    assert len(layers) == 4
    assert not any(type(layer) is type(entry) for layer in layers)
    assert isinstance(entry, host.bystander_layer())


def test_tokens_added_to_the_base_later_stand_for_padding(tmp_path) -> None:
    from tinyengram.sources import load_base

    base = load_base("tiny-random-llama")
    model = get_peft_model(base.model, tiny_config(tokenizer_name_or_path=base.tokenizer.name_or_path))
    stir(model)
    size = base.model.get_input_embeddings().weight.shape[0]
    base.model.resize_token_embeddings(size + 8)
    assert logits_of(model, torch.tensor([[5, size + 3, 7]])).isfinite().all()


class TestConfig:
    def test_ranges_become_lists_that_a_file_can_hold(self, tmp_path) -> None:
        model = get_peft_model(tiny_model(), tiny_config(layer_ids=range(1, 3)))
        model.save_pretrained(tmp_path)
        assert PeftModel.from_pretrained(tiny_model(), tmp_path).peft_config["default"].layer_ids == [1, 2]

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"engram_vocab_size": 500}, "engram_vocab_size=500: give a list"),
            ({"layer_ids": {1, 2}}, "give a list"),
            ({"pad_token_id": 1.5}, "pad_token_id=1.5"),
            ({"trainable_tables": "no"}, "trainable_tables='no'"),
        ],
    )
    def test_refused_by_name(self, options: dict, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            tiny_config(**options)


class TestCollecting:
    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"ids": [[1, 2], [3, 4]], "loss_mask": [[True, True]]}, "shorter"),
            ({"ids": [[1, 2]], "loss_mask": [[True, True], [True, True]]}, "longer"),
            ({"ids": [[1, 2, 3]], "loss_mask": [[-100, -100, 3]]}, "label != -100"),
            ({"ids": [[1, -100, 3]]}, "holds the id -100"),
            ({"ids": [[1, 2, 3]], "pad_token_id": -1}, "pad_token_id=-1"),
        ],
    )
    def test_refused_by_name(self, arguments: dict, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            collect_ngrams(**arguments)

    def test_an_empty_text_holds_none(self) -> None:
        assert len(collect_ngrams([[], [1, 2, 3], []], orders=(2,))) == len(collect_ngrams([[1, 2, 3]], orders=(2,)))
