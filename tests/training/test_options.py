"""Options that another library calls otherwise, that a method cannot be made without, and that cannot work here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.arms import LORA, NoTokenizer, examples, settings, tiny_base
from tests.memory.tiny import tiny_model
from tinyengram.errors import TinyEngramError
from tinyengram.sources import Base, Provenance
from tinyengram.training import check_config, peft_config, train_arm
from tinyengram.training.options import total_steps


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.mark.parametrize(
    ("method", "name", "meant"),
    [
        ("lora", "rank", "'r'"),
        ("lora", "alpha", "'lora_alpha'"),
        ("lora", "dropout", "'lora_dropout'"),
        ("loha", "lora_alpha", "'alpha'"),
        ("loha", "dropout", "'module_dropout'"),
        ("lora", "targets", "'target_modules'"),
        ("engram", "n_heads", "'n_head_per_ngram'"),
        ("engram", "layers", "'layer_ids'"),
        ("prompt_tuning", "prompt_length", "'num_virtual_tokens'"),
        ("lora", "lr", "'learning_rate' in the arm's training section"),
        ("lora", "lora_alfa", "Did you mean 'lora_alpha'"),
    ],
)
def test_an_option_of_another_name_is_told_its_own(base: Base, method: str, name: str, meant: str) -> None:
    with pytest.raises(TinyEngramError, match=f"'{name}' is unknown.*{meant}"):
        peft_config(method, {name: 4}, base=base)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("lora", {"task_type": "SEQ_CLS"}, "task_type='SEQ_CLS'"),
        ("lora", {"inference_mode": True}, "inference_mode=true"),
        ("lora", {"alora_invocation_tokens": [5]}, "alora_invocation_tokens.*opened_by"),
        ("lora", {"init_lora_weights": "corda"}, "'corda' needs a pass over data.*'eva'"),
        ("lora", {"init_lora_weights": "lora_ga"}, "'lora_ga' needs a pass over data.*'eva'"),
        ("lora", {"init_lora_weights": "loftq"}, "loftq_config"),
        ("adalora", {"target_r": 12}, "target_r=12 is not below init_r=12"),
        ("adalora", {}, "total_step is missing"),
        ("trainable_tokens", {}, r"token_indices: \[1, 2\]"),
        ("cpt", {}, "cpt_token_ids is missing"),
        ("cpt", {"cpt_token_ids": [1], "opt_weighted_loss_type": "decay"}, "every label counts alike"),
        ("adamss", {"use_asa": True}, "use_asa"),
        ("xlora", {}, "'xlora' is not taken.*lora"),
        ("poly", {}, "'poly' is not taken.*task_ids"),
        ("lily", {}, "'lily' is not taken.*mean over every token"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(base: Base, method: str, options: dict, said: str) -> None:
    with pytest.raises(TinyEngramError, match=said) as caught:
        peft_config(method, options, base=base)
    assert "\n" not in str(caught.value)


def test_a_length_of_ones_own_is_that_of_the_training(base: Base) -> None:
    given = settings(max_steps=30)
    assert peft_config("adalora", {}, base=base, settings=given).total_step == 30
    assert peft_config("adalora", {"total_step": 30}, base=base, settings=given).total_step == 30
    with pytest.raises(TinyEngramError, match=r"total_step=40, but 30 steps are trained.*Leave total_step out"):
        peft_config("adalora", {"total_step": 40}, base=base, settings=given)
    with pytest.raises(TinyEngramError, match="2 steps at least"):
        peft_config("adalora", {}, base=base, settings=settings(max_steps=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 7},
        {"max_steps": None, "epochs": 1.0},
        {"max_steps": None, "epochs": 2.5, "gradient_accumulation": 3},
        {"max_steps": None, "epochs": 0.3, "batch_size": 3, "gradient_accumulation": 20},
    ],
)
def test_steps_are_counted_as_they_are_taken(base: Base, tmp_path: Path, changes: dict[str, Any]) -> None:
    given, train = settings(eval_every=1000, **changes), examples(10)
    trajectory = train_arm(
        arm="lora",
        base=tiny_base(),
        config=peft_config("lora", LORA, base=base),
        train=train,
        eval=examples(2, seed=1),
        settings=given,
        seed=0,
        folder=tmp_path,
    )
    assert trajectory.points[-1].step == total_steps(given, len(train))


@pytest.mark.parametrize(
    ("method", "option"), [("c3a", "block_size"), ("vblora", "vector_length"), ("road", "group_size")]
)
def test_a_size_that_must_divide_widths_does_unless_it_is_given(base: Base, method: str, option: str) -> None:
    """The tiny model is 32, 48 and 16 wide."""
    config = peft_config(method, {}, base=base)
    assert getattr(config, option) == 16
    assert check_config(config, base) > 0
    assert getattr(peft_config(method, {option: 8}, base=base), option) == 8
    with pytest.raises(TinyEngramError, match=r"64|divi|factor"):
        check_config(peft_config(method, {option: 64}, base=base), base)


def test_an_architecture_that_peft_does_not_know_is_adapted_everywhere() -> None:
    base = Base(tiny_model("olmo2"), NoTokenizer(), Provenance(name="tiny", kind="generated"))
    assert peft_config("lora", {}, base=base).target_modules == "all-linear"
    assert peft_config("lora", {"target_modules": ["q_proj"]}, base=base).target_modules == {"q_proj"}
    assert check_config(peft_config("lora", {}, base=base), base) > 0
    for method in ("ia3", "ln_tuning"):  # Not of every linear layer.
        with pytest.raises(TinyEngramError, match=r"target_modules"):
            check_config(peft_config(method, {}, base=base), base)


def test_prompts_have_a_length_unless_one_is_given(base: Base) -> None:
    assert peft_config("prefix_tuning", {}, base=base).num_virtual_tokens == 20
    assert peft_config("prompt_tuning", {"num_virtual_tokens": 3}, base=base).num_virtual_tokens == 3
    config = peft_config("adaption_prompt", {}, base=base)
    assert (config.adapter_len, config.adapter_layers) == (10, 2)


@pytest.mark.parametrize(
    ("option", "names", "said"),
    [
        ("target_modules", ["q_proj", "v_prj"], "target_modules names 'v_prj'.*Did you mean 'v_proj'"),
        ("target_modules", ["q_proj", "fc1", "fc2"], "target_modules names 'fc1', 'fc2'"),
        ("modules_to_save", ["lm_haed"], "modules_to_save names 'lm_haed'.*Did you mean 'lm_head'"),
    ],
)
def test_modules_of_which_some_are_not_there_are_named(base: Base, option: str, names: list, said: str) -> None:
    with pytest.raises(TinyEngramError, match=said):
        check_config(peft_config("lora", {"target_modules": ["q_proj"], option: names}, base=base), base)


def test_a_pattern_and_full_names_are_taken(base: Base) -> None:
    for names in ("all-linear", r".*\.[qv]_proj", ["model.layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]):
        assert check_config(peft_config("lora", {"target_modules": names}, base=base), base) > 0
