"""An arm that cannot be used is refused before anything is trained, by name, with the versions and the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tinyengram import host
from tinyengram.memory.cache import EngramCacheLayer
from tinyengram.study.material import Material, prepare
from tinyengram.study.plan import Study, StudyError, load_study, presets
from tinyengram.study.rehearsal import rehearse

ARMS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "options": {"r": 4, "target_modules": "all-linear"}},
    "engram": {
        "method": "engram",
        "options": {
            "layer_ids": [1, 2],
            "max_ngram_size": 3,
            "engram_vocab_size": [200, 100],
            "n_embed_per_ngram": 64,
            "n_head_per_ngram": 4,
        },
    },
    "exact held": {
        "method": "engram",
        "options": {"memory": "exact", "ngrams": {"orders": [2, 3]}, "layer_ids": [1, 2], "n_embed_per_ngram": 64},
        "training": {"hold_weight": 1.0},
    },
    "prompts": {"method": "prompt_tuning", "options": {"num_virtual_tokens": 4}},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    content = yaml.safe_load(presets()["smoke"].read_text())
    # At so low a rate nothing would show: the rehearsal takes a higher one.
    arms = {name: {**arm, "training": {"learning_rate": 1e-7, **arm.get("training", {})}} for name, arm in ARMS.items()}
    content |= {"arms": arms}
    for section in ("data", "truthfulqa", "drift"):
        content[section]["name"] = str(presets()["smoke"].parent / content[section]["name"])
    content["accuracy"] = []
    file = tmp_path_factory.mktemp("study") / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_study(str(file))


@pytest.fixture(scope="module")
def material(study: Study) -> Material:
    return prepare(study.base, study.data, study.probes)


@pytest.mark.parametrize("arm", ["lora", "engram", "exact held"])
def test_what_can_be_used_passes(study: Study, material: Material, arm: str) -> None:
    rehearse(study, material, [arm], looks=True)


def test_virtual_tokens_are_told_by_where_logits_stand(study: Study, material: Material) -> None:
    with pytest.raises(StudyError, match=r"Arm 'prompts' \(prompt_tuning\).*transformers \d.*virtual tokens"):
        rehearse(study, material, ["lora", "prompts"], looks=True)


def test_a_memory_that_forgets_between_steps_is_refused(study: Study, material: Material, monkeypatch) -> None:
    """What the peer's wrapper does: each cached step sees its own token alone."""
    extend = EngramCacheLayer.extend

    def keep_padding_only(layer: EngramCacheLayer, tokens: Any, texts: Any, positions: Any, **options: Any) -> None:
        extend(layer, tokens * 0, texts * 0, positions, **options)

    monkeypatch.setattr(EngramCacheLayer, "extend", keep_padding_only)
    with pytest.raises(StudyError, match="with and without a cache: logits are"):
        rehearse(study, material, ["engram"], looks=True)


def test_an_adapter_that_is_another_once_it_is_loaded_is_refused(study: Study, material: Material, monkeypatch) -> None:
    from peft import PeftModel

    load = PeftModel.from_pretrained

    def halved(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(0.5)
        return model

    monkeypatch.setattr(PeftModel, "from_pretrained", halved)
    with pytest.raises(StudyError, match=r"loss was .* when it was saved"):
        rehearse(study, material, ["lora"], looks=True)


def test_a_library_that_moved_is_named_with_the_trace(study: Study, material: Material, monkeypatch) -> None:
    """As if transformers had named the cache anew: refused with versions, before a step, and the trace is kept."""
    monkeypatch.setattr(host, "CACHE_NAMES", ("memory_of_keys",))
    with pytest.raises(StudyError, match=r"none of memory_of_keys") as caught:
        rehearse(study, material, ["engram"], looks=True)
    said = str(caught.value)
    assert f"transformers {host.version('transformers')}" in said
    trace = Path(said.split("full trace is in ")[1].split(" ")[0].rstrip("."))
    assert "Traceback" in trace.read_text()
    trace.unlink()
