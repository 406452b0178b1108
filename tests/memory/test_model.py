"""Engram is a PEFT method like any other: silent at the start, whole in PEFT's calls, at home in every architecture."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model

from tests.memory.tiny import (
    ARCHITECTURES,
    logits_of,
    some_ids,
    stir,
    tiny_config,
    tiny_model,
    train_briefly,
    trained_memory,
)
from tinyengram import EngramConfig, collect_ngrams
from tinyengram.host import cache_of
from tinyengram.memory.layer import EngramLayer, EngramMemory


def known_in_some_ids(memory: str) -> dict:
    """Options of a memory; an exact one knows the n-grams of ``some_ids()``."""
    if memory == "hashed":
        return {}
    return {"memory": "exact", "ngrams": collect_ngrams(some_ids().tolist(), orders=(2, 3))}


def rows_read(model: PeftModel, ids: torch.Tensor) -> torch.Tensor:
    """Table rows that the first memory reads for ``ids``, ``(positions, rows per position)``."""
    read: list[torch.Tensor] = []
    tables = memories(model)[0].tables
    hook = tables.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    logits_of(model, ids)
    hook.remove()
    return read[0].flatten(0, -2)


def memories(model: PeftModel) -> list[EngramMemory]:
    return [module for module in model.modules() if isinstance(module, EngramMemory)]


def unknown_row(model: PeftModel) -> int | None:
    return memories(model)[0].unknown_row


@pytest.mark.parametrize("model_type", ARCHITECTURES)
class TestEveryArchitecture:
    def test_is_bit_equal_to_the_base_before_training(self, model_type: str) -> None:
        base, ids = tiny_model(model_type), some_ids()
        before = logits_of(base, ids)
        assert torch.equal(logits_of(get_peft_model(base, tiny_config()), ids), before)

    def test_learns_and_is_bit_equal_to_the_base_when_disabled(self, model_type: str) -> None:
        base, ids = tiny_model(model_type), some_ids(4, 24)
        before = logits_of(base, ids)
        model = get_peft_model(base, tiny_config())
        first = model(input_ids=ids, labels=ids).loss.item()
        train_briefly(model, ids)
        assert model(input_ids=ids, labels=ids).loss.item() < 0.9 * first
        with model.disable_adapter():
            assert torch.equal(logits_of(model, ids), before)
        assert not torch.equal(logits_of(model, ids), before)

    def test_cached_greedy_generation_equals_full_forwards(self, model_type: str) -> None:
        model, prompt = trained_memory(model_type), some_ids(2, 7)
        generated = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=None,
        )
        text = prompt
        for _ in range(20):
            text = torch.cat([text, logits_of(model, text, use_cache=False)[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(generated, text)

    def test_a_left_padded_batch_generates_what_each_prompt_does_alone(self, model_type: str) -> None:
        model, prompts = trained_memory(model_type), [some_ids(1, 5, seed=1), some_ids(1, 9, seed=2)]
        batch = torch.zeros(2, 9, dtype=torch.long)
        mask = torch.zeros_like(batch)
        for row, prompt in enumerate(prompts):
            batch[row, -prompt.shape[1] :], mask[row, -prompt.shape[1] :] = prompt, 1
        options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
        together = model.generate(input_ids=batch, attention_mask=mask, **options)[:, 9:]
        for row, prompt in enumerate(prompts):
            alone = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
            assert torch.equal(together[row], alone[0, prompt.shape[1] :])

    def test_saves_and_loads_bit_equal(self, model_type: str, tmp_path) -> None:
        model, ids = trained_memory(model_type), some_ids()
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(tiny_model(model_type), tmp_path)
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))


def test_table_rows_move_and_the_output_depends_on_the_ids() -> None:
    model, ids = get_peft_model(tiny_model(), tiny_config()), some_ids(4, 24)
    train_briefly(model, ids)
    for layer in (module for module in model.modules() if isinstance(module, EngramLayer)):
        tables = layer.engram_memory["default"].tables.weight
        rows_read = tables.any(dim=1)
        assert rows_read.any()
        assert not rows_read.all(), "a row that no training token touched must stay exactly zero"
    hidden = torch.randn(1, 24, 32)
    reading = {}

    def note(module: EngramLayer, args: tuple, kwargs: dict) -> None:
        reading[module.layer_id] = module.slot.reading.rows("default", module.layer_id)

    layer = next(module for module in model.modules() if isinstance(module, EngramLayer))
    hook = layer.register_forward_pre_hook(note, with_kwargs=True)
    memory = layer.engram_memory["default"]
    logits_of(model, ids[:1])
    one = memory.read(hidden, reading[layer.layer_id])
    logits_of(model, ids[1:2])
    other = memory.read(hidden, reading[layer.layer_id])
    hook.remove()
    assert not torch.allclose(one, other)


class TestPeft:
    def test_several_memories_are_added_chosen_and_deleted(self) -> None:
        base, ids = tiny_model(), some_ids()
        plain = logits_of(base, ids)
        model = get_peft_model(base, tiny_config(), adapter_name="first")
        stir(model)
        first = logits_of(model, ids)
        model.add_adapter(
            "second", tiny_config(layer_ids=[0, 2], max_ngram_size=2, engram_vocab_size=[40], kernel_size=2)
        )
        assert torch.equal(logits_of(model, ids), first), "an added adapter is not active"
        model.set_adapter("second")
        assert torch.equal(logits_of(model, ids), plain)
        stir(model, seed=9)
        second = logits_of(model, ids)
        assert not torch.allclose(second, plain)
        model.set_adapter("first")
        assert torch.equal(logits_of(model, ids), first)
        model.delete_adapter("first")
        model.set_adapter("second")
        assert torch.equal(logits_of(model, ids), second)

    def test_an_inactive_memory_is_not_trained(self) -> None:
        model = get_peft_model(tiny_model(), tiny_config(), adapter_name="first")
        model.add_adapter("second", tiny_config())
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained
        assert all(".first." in name for name in trained)
        model.set_adapter("second")
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert all(".second." in name for name in trained)

    def test_unload_gives_the_base_back(self) -> None:
        base, ids = tiny_model(), some_ids()
        plain = logits_of(base, ids)
        model = get_peft_model(base, tiny_config())
        stir(model)
        back = model.unload()
        assert torch.equal(logits_of(back, ids), plain)
        assert not any(isinstance(module, EngramLayer) for module in back.modules())
        decoder = back.get_decoder()
        assert not decoder._forward_pre_hooks
        assert not decoder._forward_hooks

    @pytest.mark.parametrize("call", ["merge_and_unload", "merge_adapter"])
    def test_merging_is_refused_with_the_reason(self, call: str) -> None:
        model = trained_memory()
        with pytest.raises(ValueError, match="depends on the tokens"):
            getattr(model, call)()

    def test_frozen_tables_stay_at_their_first_values(self) -> None:
        model, ids = get_peft_model(tiny_model(), tiny_config(trainable_tables=False, init="zero_value")), some_ids()
        tables = {name: p.clone() for name, p in model.named_parameters() if name.endswith("tables.weight")}
        assert tables
        train_briefly(model, ids)
        model.set_adapter("default")
        train_briefly(model, ids)
        for name, parameter in model.named_parameters():
            if name in tables:
                assert torch.equal(parameter, tables[name])

    @pytest.mark.parametrize("memory", ["hashed", "exact"])
    def test_shuffled_rows_are_fresh_at_each_call_of_training_alone(self, memory: str) -> None:
        model, ids = trained_memory(**known_in_some_ids(memory), rows="shuffled").train(), some_ids()
        in_training = rows_read(model, ids)
        assert not torch.equal(in_training, rows_read(model, ids))
        model.eval()
        assert torch.equal(rows_read(model, ids), rows_read(model, ids))
        assert not torch.equal(in_training, rows_read(model, ids))
        assert len(rows_read(model, ids)[:, 0].unique()) > 4

    @pytest.mark.parametrize("memory", ["hashed", "exact"])
    def test_a_single_row_does_not_tell_ngrams_apart(self, memory: str) -> None:
        model, ids = trained_memory(**known_in_some_ids(memory), rows="single"), some_ids()
        for place in rows_read(model, ids).T:
            assert len(set(place.tolist()) - {unknown_row(model)}) == 1

    @pytest.mark.parametrize("rows", ["shuffled", "single"])
    def test_a_control_of_an_exact_memory_is_silent_where_the_memory_is(self, rows: str) -> None:
        model, ids = trained_memory(**known_in_some_ids("exact"), rows=rows), some_ids(seed=9)
        with model.disable_adapter():
            base = logits_of(model, ids)
        assert torch.equal(logits_of(model, ids), base)
        assert not torch.equal(logits_of(model, some_ids()), base)

    def test_gradient_checkpointing_gives_the_same_gradients(self) -> None:
        ids, gradients = some_ids(), []
        for checkpointing in (False, True):
            model = trained_memory().train()
            if checkpointing:
                model.gradient_checkpointing_enable()
                model.enable_input_require_grads()
            model(input_ids=ids, labels=ids).loss.backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient)


class TestRefusedByName:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layer_ids": []}, "at least one block"),
            ({"layer_ids": 2}, "give a list"),
            ({"layer_ids": [1, 1, 2]}, r"\[1\] more than once"),
            ({"layer_ids": [-1]}, "from 0 on"),
            ({"engram_vocab_size": [60]}, "2 sizes"),
            ({"engram_vocab_size": [60, 0]}, "from 1 on"),
            ({"n_embed_per_ngram": 15}, "make it a multiple"),
            ({"max_ngram_size": 1}, "at least 2"),
            ({"kernel_size": -1}, "at least 0"),
            ({"memory": "fuzzy"}, "hashed, exact"),
            ({"init": "ones"}, "zero_tables"),
            ({"memory": "exact"}, "collect_ngrams"),
            ({"memory": "exact", "ngrams": [1, 2]}, "KnownNgrams"),
        ],
    )
    def test_options_that_cannot_work(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny_config(**options)

    def test_an_unknown_option(self) -> None:
        with pytest.raises(TypeError, match="n_heads"):
            EngramConfig(n_heads=3)

    def test_a_layer_beyond_the_models_depth(self) -> None:
        with pytest.raises(ValueError, match=r"names \[99\], but the model has 4 blocks"):
            get_peft_model(tiny_model(), tiny_config(layer_ids=[1, 99]))

    def test_ngrams_longer_than_the_memory_reads(self) -> None:
        known = collect_ngrams([[1, 2, 3, 4]], orders=(4,))
        with pytest.raises(ValueError, match="raise max_ngram_size"):
            tiny_config(memory="exact", ngrams=known)

    def test_ngrams_of_another_vocabulary(self) -> None:
        known = collect_ngrams([[1, 2, 3000]], orders=(2,))
        with pytest.raises(ValueError, match="id 3000"):
            get_peft_model(tiny_model(), tiny_config(memory="exact", ngrams=known))

    def test_inputs_embeds_alone(self) -> None:
        model = trained_memory()
        embeds = model.get_input_embeddings()(some_ids())
        with pytest.raises(ValueError, match="disable_adapter"):
            model(inputs_embeds=embeds)
        with model.disable_adapter():
            model(inputs_embeds=embeds)

    def test_a_cache_that_the_memory_did_not_see_filled(self) -> None:
        base, ids = tiny_model(), some_ids()
        cache = cache_of(base(input_ids=ids, use_cache=True))
        model = get_peft_model(base, tiny_config())
        with pytest.raises(ValueError, match="fresh cache"):
            logits_of(model, ids[:, :1], cache=cache)


@pytest.mark.parametrize("pad", [-1, 97])
def test_a_pad_token_outside_the_vocabulary_is_refused(pad: int) -> None:
    with pytest.raises(ValueError, match=f"pad_token_id={pad} is outside the base's vocabulary of 97"):
        get_peft_model(tiny_model(), tiny_config(pad_token_id=pad))


def test_an_adapter_that_is_added_beside_the_active_one_is_not_trained() -> None:
    model = get_peft_model(tiny_model(), tiny_config(), adapter_name="first")
    model.add_adapter("second", tiny_config())
    trained = {name: p.requires_grad for name, p in model.named_parameters() if "engram_memory" in name}
    assert all(grad == (".first." in name) for name, grad in trained.items())
    model.delete_adapter("second")
    assert set(model.peft_config) == {"first"}
    assert not any(".second." in name for name in model.state_dict())
