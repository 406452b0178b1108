"""Off the beaten path a memory is right, or refused by name before a step: never wrong in silence."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)

from tests.memory.tiny import logits_of, some_ids, stir, tiny_config, tiny_model, trained_memory
from tinyengram import EngramConfig, collect_ngrams, compress_vocabulary
from tinyengram.memory.base import weights_digest
from tinyengram.sources import load_base

KNOWN = collect_ngrams(some_ids(6, 40, seed=7).tolist(), orders=(2, 3))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    trained_memory().save_pretrained(tmp_path)
    return tmp_path


class TestASavedConfig:
    def test_makes_a_fresh_hashed_memory(self, saved: Path, tmp_path: Path) -> None:
        config = EngramConfig.from_pretrained(saved)
        config.inference_mode = False
        model, ids = get_peft_model(tiny_model(), config), some_ids()
        assert torch.equal(logits_of(model, ids), logits_of(tiny_model(), ids))
        stir(model)
        fresh = trained_memory()
        assert torch.equal(logits_of(model, ids), logits_of(fresh, ids))

    def test_of_a_base_with_an_end_token_pads_as_the_first_did(self, tmp_path: Path) -> None:
        first = trained_memory(pad_token_id=9)
        first.save_pretrained(tmp_path)
        config = EngramConfig.from_pretrained(tmp_path)
        config.inference_mode = False
        model = get_peft_model(tiny_model(), config)
        stir(model)
        assert torch.equal(logits_of(model, some_ids()), logits_of(first, some_ids()))

    def test_of_an_exact_memory_is_refused_without_ngrams(self, tmp_path: Path) -> None:
        trained_memory(memory="exact", ngrams=KNOWN).save_pretrained(tmp_path)
        model = get_peft_model(tiny_model(), EngramConfig.from_pretrained(tmp_path))
        with pytest.raises(ValueError, match=r"tensors were not loaded.*PeftModel.from_pretrained.*give ngrams="):
            logits_of(model, some_ids())

    def test_of_an_exact_memory_takes_new_ngrams(self, tmp_path: Path) -> None:
        trained_memory(memory="exact", ngrams=KNOWN).save_pretrained(tmp_path)
        config, ids = EngramConfig.from_pretrained(tmp_path), some_ids(6, 40, seed=8)
        config.inference_mode, config.ngrams = False, collect_ngrams(ids.tolist(), orders=(2, 3))
        model = get_peft_model(tiny_model(), config)
        stir(model)
        assert not torch.allclose(logits_of(model, ids), logits_of(tiny_model(), ids))

    def test_with_a_tokenizer_is_refused_until_loaded(self, tmp_path: Path) -> None:
        base = load_base("tiny-random-llama")
        get_peft_model(base.model, tiny_config(tokenizer_name_or_path=base.tokenizer.name_or_path)).save_pretrained(
            tmp_path
        )
        model = get_peft_model(load_base("tiny-random-llama").model, EngramConfig.from_pretrained(tmp_path))
        with pytest.raises(ValueError, match="set its fingerprint to None"):
            logits_of(model, some_ids())
        assert logits_of(PeftModel.from_pretrained(load_base("tiny-random-llama").model, tmp_path), some_ids()).any()

    def test_saved_alone_says_that_ngrams_stay_behind(self, tmp_path: Path) -> None:
        config = tiny_config(memory="exact", ngrams=KNOWN)
        with pytest.warns(UserWarning, match="n-grams of an exact memory are not saved"):
            config.save_pretrained(tmp_path / "alone")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            get_peft_model(tiny_model(), config).save_pretrained(tmp_path / "whole")


class TestAnotherBase:
    def test_of_the_same_shape_is_refused(self, saved: Path) -> None:
        with pytest.raises(ValueError, match=r"other weights.*check_base=False"):
            PeftModel.from_pretrained(tiny_model(seed=1), saved)

    def test_is_taken_when_one_says_so(self, saved: Path, tmp_path: Path) -> None:
        config, ids = EngramConfig.from_pretrained(saved, check_base=False), some_ids()
        model = PeftModel.from_pretrained(tiny_model(seed=1), saved, config=config)
        assert not torch.equal(logits_of(model, ids), logits_of(tiny_model(seed=1), ids))
        model.save_pretrained(tmp_path / "again")
        assert "check_base" not in json.loads((tmp_path / "again" / "adapter_config.json").read_text())
        again = PeftModel.from_pretrained(tiny_model(seed=1), tmp_path / "again")
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
    def test_the_same_in_another_precision_is_taken(self, saved: Path, kind: torch.dtype) -> None:
        assert PeftModel.from_pretrained(tiny_model().to(kind), saved)

    def test_one_changed_block_is_seen(self, saved: Path) -> None:
        base = tiny_model()
        with torch.no_grad():
            base.model.layers[3].mlp.up_proj.weight.mul_(1.05)
        with pytest.raises(ValueError, match="other weights"):
            PeftModel.from_pretrained(base, saved)

    def test_has_one_digest_on_every_machine(self) -> None:
        """Else an adapter is refused on its own base; a change of how it is computed refuses all that were saved."""
        base = tiny_model()
        with torch.no_grad():
            for parameter in base.parameters():
                parameter.copy_((torch.arange(parameter.numel()) % 251 / 251 - 0.5).view(parameter.shape))
        digest = weights_digest(base.get_input_embeddings(), base.model.layers)
        assert digest == "05eaafc0c76a3dab31b6e8411be05c19e326abb6918a5cf05ff7d474072b5438"

    def test_is_not_named_by_weights_that_are_not_at_hand(self) -> None:
        for base in (tiny_model().to("meta"), tiny_model().half()):
            assert weights_digest(base.get_input_embeddings(), base.model.layers) is None

    def test_other_adapters_on_it_do_not_count(self) -> None:
        lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, modules_to_save=["embed_tokens"])
        below = get_peft_model(tiny_model(), lora, adapter_name="below")
        bases = [
            get_peft_model(base, tiny_config()).peft_config["default"].current_fingerprint["base"]
            for base in (below, tiny_model())
        ]
        assert len(bases[0]["weights"]) == 64
        assert bases[0] == bases[1]

    def test_an_adapter_saved_before_bases_had_digests_loads(self, tmp_path: Path, monkeypatch) -> None:
        with monkeypatch.context() as before:
            before.setattr("tinyengram.memory.base.weights_digest", lambda *_: None)
            model, ids = trained_memory(), some_ids()
            model.save_pretrained(tmp_path)
        assert torch.equal(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path), ids), logits_of(model, ids))

    def test_with_a_resized_embedding_is_told_what_to_do(self, saved: Path) -> None:
        base = tiny_model()
        base.resize_token_embeddings(101)
        with pytest.raises(ValueError, match=r"vocab_size=97, but this one has 101.*load the adapter first"):
            PeftModel.from_pretrained(base, saved)
        model = PeftModel.from_pretrained(tiny_model(), saved)
        before = logits_of(model, some_ids())
        model.base_model.model.resize_token_embeddings(101)
        torch.testing.assert_close(logits_of(model, some_ids())[..., :97], before)

    def test_resized_after_the_memory_was_made_is_saved_for_the_base_as_it_was(self, tmp_path: Path) -> None:
        model, ids = trained_memory(), some_ids()
        before = logits_of(model, ids)
        model.base_model.model.resize_token_embeddings(101)
        model.save_pretrained(tmp_path)
        assert torch.equal(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path), ids), before)


class TestNgramsOfAnotherVocabulary:
    @pytest.fixture
    def base(self) -> Any:
        return load_base("tiny-random-llama")

    def test_raw_ids_where_the_vocabulary_is_compressed(self, base: Any) -> None:
        with pytest.raises(ValueError, match=r"collected on raw token ids but tokenizer_name_or_path='"):
            tiny_config(memory="exact", ngrams=KNOWN, tokenizer_name_or_path=base.tokenizer.name_or_path)

    def test_compressed_ids_where_it_is_not(self, base: Any) -> None:
        known = collect_ngrams([[5, 6, 7]], orders=(2,), compression=compress_vocabulary(base.tokenizer))
        with pytest.raises(ValueError, match="on a compressed vocabulary but tokenizer_name_or_path=None"):
            tiny_config(memory="exact", ngrams=known)

    def test_another_map(self, base: Any) -> None:
        right = compress_vocabulary(base.tokenizer)
        name = base.tokenizer.name_or_path
        known = collect_ngrams([[5, 6, 7]], orders=(2,), compression=right)
        assert get_peft_model(base.model, tiny_config(memory="exact", ngrams=known, tokenizer_name_or_path=name))
        known = collect_ngrams([[5, 6, 7]], orders=(2,), compression=right.flip(0))
        with pytest.raises(ValueError, match="another vocabulary map"):
            get_peft_model(
                load_base("tiny-random-llama").model,
                tiny_config(memory="exact", ngrams=known, tokenizer_name_or_path=name),
            )

    def test_a_pad_token_that_the_tokenizer_lacks_is_refused(self, base: Any) -> None:
        model = load_base("tiny-random-llama").model
        size = len(base.tokenizer)
        model.resize_token_embeddings(size + 8)
        options = {"tokenizer_name_or_path": base.tokenizer.name_or_path, "layer_ids": [0]}
        with pytest.raises(ValueError, match=f"pad_token_id={size} is not in the tokenizer .* of {size} tokens"):
            get_peft_model(model, tiny_config(pad_token_id=size, **options))

    @pytest.mark.parametrize("reload", [False, True])
    def test_tokens_that_a_tokenizer_gained_later_read_as_padding(
        self, base: Any, reload: bool, tmp_path: Path
    ) -> None:
        pad = 4
        options = {"tokenizer_name_or_path": base.tokenizer.name_or_path, "pad_token_id": pad, "layer_ids": [0]}
        model = get_peft_model(base.model, tiny_config(**options))
        stir(model)
        if reload:
            model.save_pretrained(tmp_path)
            model = PeftModel.from_pretrained(load_base("tiny-random-llama").model, tmp_path)
        model.eval()
        inner = model.base_model.model
        size = inner.get_input_embeddings().weight.shape[0]
        inner.resize_token_embeddings(size + 8)
        with torch.no_grad():  # So that the base does not tell them apart.
            for gained in (size, size + 3):
                inner.get_input_embeddings().weight[gained] = inner.get_input_embeddings().weight[pad]
        texts = [torch.tensor([[5, token, 7, 9]]) for token in (size, size + 3, pad, 6)]
        first, grown, padding, other = (logits_of(model, text) for text in texts)
        assert torch.equal(first, padding)
        assert torch.equal(grown, padding)
        assert not torch.equal(grown, other)


class TestBesideAMemory:
    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("1.self_attn.o_proj", r"'1.self_attn.o_proj', which matches 'model.layers.1.self_attn.o_proj' in a block"),
            ("mlp", r"'mlp', which matches 'model.layers.1.mlp' in a block"),
            ("norm", r"'norm', which matches"),
            ("_norm", r"'_norm', which also matches the memory's own"),
        ],
    )
    def test_modules_inside_its_blocks_are_refused(self, name: str, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            get_peft_model(tiny_model(), tiny_config(modules_to_save=[name]))

    @pytest.mark.parametrize("name", ["model.norm", "0.self_attn.o_proj", "lm_head"])
    def test_modules_outside_are_saved_whole(self, name: str, tmp_path: Path) -> None:
        model, ids = get_peft_model(tiny_model(), tiny_config(modules_to_save=[name])), some_ids()
        whole = [parameter for key, parameter in model.named_parameters() if ".modules_to_save." in key]
        assert len(whole) == 1
        with torch.no_grad():
            whole[0].mul_(1.5)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(tiny_model(), tmp_path)
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))
        assert not torch.equal(logits_of(again, ids), logits_of(tiny_model(), ids))

    def test_trainable_tokens_are_refused(self) -> None:
        with pytest.raises(TypeError, match="'trainable_token_indices' is no option of Engram, which leaves"):
            tiny_config(trainable_token_indices=[1])

    def test_a_lora_of_the_same_name(self, tmp_path: Path) -> None:
        def lora() -> PeftModel:
            torch.manual_seed(1)
            return get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))

        model, ids = get_peft_model(lora(), tiny_config()), some_ids()
        stir(model)
        model.eval()
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(lora(), tmp_path).eval()
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))


class TestWhatPeftSays:
    @pytest.mark.parametrize("name", ["quantum_entanglement", "trainable_token_indices", "trainable_tokens"])
    def test_an_option_of_a_later_peft_is_passed_over_with_a_warning(self, saved: Path, name: str) -> None:
        file = saved / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), name: None}))
        with pytest.warns(UserWarning, match=name):
            model = PeftModel.from_pretrained(tiny_model(), saved)
        assert torch.equal(logits_of(model, some_ids()), logits_of(trained_memory(), some_ids()))

    def test_an_option_of_a_later_engram_is_refused(self, saved: Path) -> None:
        file = saved / "adapter_config.json"
        options = json.loads(file.read_text())
        options["fingerprint"]["options"].append("quantum_entanglement")
        file.write_text(json.dumps({**options, "quantum_entanglement": True}))
        with pytest.raises(TypeError, match="'quantum_entanglement' is no option of Engram"):
            PeftModel.from_pretrained(tiny_model(), saved)

    def test_what_a_user_writes_is_refused(self) -> None:
        with pytest.raises(TypeError, match="'quantum_entanglement' is no option of Engram"):
            tiny_config(quantum_entanglement=True)

    def test_the_status_names_the_method(self) -> None:
        status = trained_memory().get_model_status()
        assert status.peft_types == {"default": "ENGRAM"}
        assert f"{tiny_config().peft_type.value}" == "ENGRAM"

    def test_unmerging_and_weighting_are_refused_with_words(self) -> None:
        model = trained_memory()
        with pytest.raises(ValueError, match="nothing to unmerge"):
            model.unmerge_adapter()
        with pytest.raises(ValueError, match="add_weighted_adapter"):
            model.add_weighted_adapter(["default"], [0.5], "half")


class TestEditedTensors:
    def test_are_refused_unless_one_says_so(self) -> None:
        model = trained_memory()
        state = get_peft_model_state_dict(model)
        halved = {k: v / 2 if k.endswith(("proj.weight", "conv_weight")) else v for k, v in state.items()}
        target = get_peft_model(tiny_model(), tiny_config())
        with pytest.raises(ValueError, match=r"checksum.*check_tensors=False"):
            set_peft_model_state_dict(target, halved)
        target.peft_config["default"].check_tensors = False
        set_peft_model_state_dict(target, halved)
        mine, theirs = (dict(m.named_parameters()) for m in (target, model))
        name = next(name for name in mine if name.endswith("value_proj.weight"))
        assert torch.equal(mine[name], theirs[name] / 2)

    def test_in_a_file(self, saved: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = saved / "adapter_model.safetensors"
        tensors = load_file(file)
        save_file({k: v / 2 if k.endswith("value_proj.weight") else v for k, v in tensors.items()}, file)
        config = EngramConfig.from_pretrained(saved, check_tensors=False)
        model = PeftModel.from_pretrained(tiny_model(), saved, config=config)
        assert not torch.equal(logits_of(model, some_ids()), logits_of(trained_memory(), some_ids()))

    def test_names_and_shapes_must_still_fit(self, saved: Path) -> None:
        model = trained_memory()
        state = get_peft_model_state_dict(model)
        del state[next(key for key in state if "value_proj" in key)]
        model.peft_config["default"].check_tensors = False
        with pytest.raises(ValueError, match=r"lacks .*value_proj"):
            set_peft_model_state_dict(model, state)

    def test_row_numbers_cannot_be_averaged(self) -> None:
        model = get_peft_model(tiny_model(), tiny_config())
        with torch.no_grad():
            for module in model.modules():
                if hasattr(module, "tables"):
                    module.tables.weight[:3] = 1.0
        state = get_peft_model_state_dict(model)
        model.peft_config["default"].check_tensors = False
        with pytest.raises(ValueError, match="holds row numbers"):
            set_peft_model_state_dict(model, {k: v / 2 for k, v in state.items()})
