"""An adapter goes on the base that it was trained on, and on no other without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.arms import LORA, examples, settings, tiny_base
from tests.memory.tiny import tiny_model
from tinyengram.errors import TinyEngramError
from tinyengram.training import load_adapter, peft_config, train_arm
from tinyengram.training.adapters import describe_base


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, folder = tiny_base(), tmp_path_factory.mktemp("run")
    train_arm(
        arm="lora",
        base=base,
        config=peft_config("lora", LORA, base=base),
        train=examples(4),
        eval=examples(2, seed=1),
        settings=settings(max_steps=2),
        seed=0,
        folder=folder,
    )
    return folder / "checkpoint-2"


def copied(adapter: Path, to: Path, **changes: str) -> Path:
    for file in adapter.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps(config | changes))
    return to


def test_its_own_base_takes_it(adapter: Path) -> None:
    model = load_adapter(tiny_base().model, adapter)
    assert not model.training
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(model(input_ids=ids).logits, tiny_base().model(input_ids=ids).logits)


def test_a_base_of_the_same_shape_with_other_weights_is_refused(adapter: Path) -> None:
    with pytest.raises(TinyEngramError, match=r"another base.*other weights.*Load it on the base"):
        load_adapter(tiny_model(seed=1), adapter)


def test_a_base_of_another_shape_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(TinyEngramError, match=r"another base.*hidden_size=32, and this one has 64"):
        load_adapter(tiny_model(hidden_size=64), adapter)
    bare = copied(adapter, tmp_path)
    (bare / "adapter_base.json").unlink()  # Saved by PEFT alone.
    assert load_adapter(tiny_base().model, bare)
    with pytest.raises(TinyEngramError, match=r"cannot be put on.*size mismatch") as caught:
        load_adapter(tiny_model(hidden_size=64), bare)
    assert "\n" not in str(caught.value)


def test_a_method_that_peft_does_not_know_is_named(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(TinyEngramError, match=r"method 'LORRA', which is unknown to .*peft.*'lora'.*Install the PEFT"):
        load_adapter(tiny_base().model, copied(adapter, tmp_path, peft_type="LORRA"))


def test_a_folder_without_an_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(TinyEngramError, match=r"holds no adapter: adapter_config.json"):
        load_adapter(tiny_base().model, tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(TinyEngramError, match="no description of an adapter"):
        load_adapter(tiny_base().model, tmp_path)


class Quantised(torch.Tensor):
    """A weight of a type of its own that says it is float32, as torchao's are."""


def test_a_quantised_base_is_told_by_its_sizes_alone() -> None:
    model = tiny_model()
    plain = describe_base(model)
    attention = model.model.layers[0].self_attn
    quantised = attention.q_proj.weight.detach().as_subclass(Quantised)
    attention.q_proj.weight = torch.nn.Parameter(quantised, requires_grad=False)
    assert describe_base(model) == {name: value for name, value in plain.items() if name != "weights"}
