"""What is said of a base, asked of small modules: which weights name it, which token pads, which offload is refused."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.memory.tiny import tiny_config
from tinyengram.memory.base import describe_base, pad_token_of, refuse_bare_offload, weights_digest


def seven_blocks() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Sequential(nn.Linear(40, 40), nn.Conv1d(2, 2, 2)) for _ in range(7))


def digest_of(blocks: nn.ModuleList, embedding: nn.Module | None = None) -> str | None:
    torch.manual_seed(1)
    return weights_digest(embedding or nn.Embedding(5, 2), blocks)


@pytest.mark.parametrize("kind", [0, 1])
def test_matrices_of_the_first_middle_and_last_block_name_a_base(kind: int) -> None:
    seen = []
    for at in range(7):
        blocks = seven_blocks()
        with torch.no_grad():
            blocks[at][kind].weight.mul_(2)
            blocks[at][kind].bias.mul_(2)
        seen.append(digest_of(blocks) != digest_of(seven_blocks()))
    assert seen == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 512), (40, 40)])
def test_the_ends_of_a_matrix_of_any_size_are_looked_at(shape: tuple[int, int]) -> None:
    digests = set()
    for at in (None, 0, -1):
        blocks = seven_blocks()
        blocks[6][0].weight = nn.Parameter(torch.zeros(shape))
        if at is not None:
            blocks[6][0].weight.detach().view(-1)[at] = 1
        digests.add(digest_of(blocks))
    assert len(digests) == (3 if shape != (1, 1) else 2)


def test_a_base_that_does_not_state_its_width_has_that_of_its_embedding() -> None:
    config = SimpleNamespace(model_type="own")
    model = SimpleNamespace(config=config, get_input_embeddings=lambda: nn.Embedding(5, 2))
    said = describe_base(model, seven_blocks())
    assert (said["vocab_size"], said["hidden_size"], said["num_hidden_layers"]) == (5, 2, 7)
    config.hidden_size = 3
    assert describe_base(model, seven_blocks())["hidden_size"] == 3


def test_vectors_do_not_name_a_base_and_shapes_do() -> None:
    blocks = seven_blocks()
    with torch.no_grad():
        blocks[0][0].bias.mul_(2)
    assert digest_of(blocks) == digest_of(seven_blocks())
    with torch.no_grad():
        turned = nn.Embedding(2, 5)
        plain = nn.Embedding(5, 2)
        turned.weight.copy_(plain.weight.view(2, 5))
    assert digest_of(blocks, turned) != digest_of(blocks, plain)


@pytest.mark.parametrize(
    "strange", [torch.zeros(0, 3), torch.zeros(3, 3, dtype=torch.float16), torch.zeros(3, 3).to("meta")]
)
def test_one_matrix_that_cannot_be_read_leaves_a_base_without_a_digest(strange: torch.Tensor) -> None:
    blocks = seven_blocks()
    blocks[3][0].weight = nn.Parameter(strange)
    assert digest_of(blocks) is None


@pytest.mark.parametrize(("on_disk", "hooked", "without_weights"), product([True, False], repeat=3))
def test_only_weights_on_disk_that_nothing_brings_are_refused(
    on_disk: bool, hooked: bool, without_weights: bool
) -> None:
    blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, device="meta" if without_weights else "cpu")])
    if hooked:
        blocks[1]._hf_hook = object()
    model = SimpleNamespace(hf_device_map={"": "cpu", "1": "disk" if on_disk else 0})
    if on_disk and without_weights and not hooked:
        with pytest.raises(ValueError, match="lies partly on disk"):
            refuse_bare_offload(model, blocks)
    else:
        refuse_bare_offload(model, blocks)


@pytest.mark.parametrize(
    ("configured", "tokens", "wanted"),
    [
        (7, {"pad_token_id": 3, "eos_token_id": 4}, 7),
        (0, {"pad_token_id": 3}, 0),
        (None, {"pad_token_id": 3, "eos_token_id": 4}, 3),
        (None, {"pad_token_id": 0, "eos_token_id": 4}, 0),
        (None, {"pad_token_id": -1, "eos_token_id": 4}, 4),
        (None, {"pad_token_id": None, "eos_token_id": [5, 6]}, 5),
        (None, {"eos_token_id": None}, 0),
        (None, {}, 0),
    ],
)
def test_the_token_that_pads_is_the_first_that_is_known(configured: Any, tokens: dict, wanted: int) -> None:
    config = SimpleNamespace(**tokens)
    config.get_text_config = lambda *_, **__: config
    assert pad_token_of(tiny_config(pad_token_id=configured), SimpleNamespace(config=config)) == wanted
