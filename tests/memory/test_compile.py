"""A memory adds no break to a model's compiled graph: one for a whole text, as of LoRA, and the same logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CompileConfig, StaticCache

from tests.memory.tiny import generate, greedy_by_hand, logits_of, some_ids, tiny_model, trained_memory
from tinyengram import collect_ngrams

IDS = some_ids(2, 20)
MEMORIES: dict[str, dict[str, Any]] = {
    "hashed": {},
    "exact": {"memory": "exact", "ngrams": collect_ngrams(IDS[:1].tolist(), orders=(2, 3), pad_token_id=0)},
    "latched": {"open_after": [IDS[0, 4:6].tolist(), IDS[1, 7:10].tolist()]},
}
LEFT_PADDED = torch.tensor([[0] * 5 + [1] * 15, [1] * 20])
INPUTS: dict[str, dict[str, Any]] = {
    "plain": {"use_cache": False},
    "padded": {"use_cache": False, "attention_mask": LEFT_PADDED},
    "packed": {"use_cache": False, "position_ids": torch.cat([torch.arange(8), torch.arange(12)]).expand(2, -1)},
    "leaving a cache": {},
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


class Graphs(list[torch.fx.GraphModule]):
    """A backend of ``torch.compile`` that keeps the graphs it is given, and runs them as they are."""

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        self.append(graph)
        return graph.forward


# A latched memory does all that a hashed one does, and one that leaves a cache all that one without does.
ALWAYS = [(memory, inputs) for memory in MEMORIES for inputs in INPUTS if memory == "latched" or "cache" in inputs]
RARELY = [(memory, inputs) for memory in MEMORIES for inputs in INPUTS if (memory, inputs) not in ALWAYS]


@pytest.mark.parametrize(
    ("memory", "inputs"), [*ALWAYS, *(pytest.param(*one, marks=pytest.mark.slow) for one in RARELY)]
)
def test_one_graph_with_the_same_logits(memory: str, inputs: str) -> None:
    model, graphs = trained_memory(**MEMORIES[memory]), Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    found = logits_of(compiled, IDS, **INPUTS[inputs])
    assert len(graphs) == 1
    torch.testing.assert_close(found, logits_of(model, IDS, **INPUTS[inputs]), atol=1e-4, rtol=1e-4)


def test_lora_has_as_many() -> None:
    model = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    graphs = Graphs()
    logits_of(torch.compile(model, fullgraph=True, backend=graphs), IDS, **INPUTS["plain"])
    assert len(graphs) == 1


@pytest.mark.parametrize("memory", MEMORIES)
def test_training_is_one_graph_with_the_same_gradients(memory: str) -> None:
    model, graphs = trained_memory(**MEMORIES[memory]), Graphs()
    gradients = []
    for one in (model, torch.compile(model, fullgraph=True, backend=graphs)):
        one(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert len(graphs) == 1
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
def test_decoding_with_a_static_cache_is_compiled_twice_at_most(memory: str) -> None:
    """For the first length, and for any."""
    model, graphs = trained_memory(**MEMORIES[memory]), Graphs()
    cache = StaticCache(config=model.config, max_cache_len=32)
    parts = [logits_of(model, IDS[:, :8], cache=cache)]
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    parts += [logits_of(compiled, IDS[:, at : at + 1], cache=cache) for at in range(8, 20)]
    assert len(graphs) <= 2
    torch.testing.assert_close(torch.cat(parts, dim=1), logits_of(model, IDS, use_cache=False), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "memory", [pytest.param("hashed", marks=pytest.mark.slow), pytest.param("exact", marks=pytest.mark.slow), "latched"]
)
def test_generation_that_compiles_itself_breaks_no_graph(memory: str) -> None:
    """As ``generate`` does on an accelerator with a static cache, whose length is a tensor."""
    model = trained_memory(**MEMORIES[memory])
    config = CompileConfig(backend="aot_eager", mode=None)
    config._compile_all_devices = True
    torch._dynamo.utils.counters.clear()
    found = generate(model, IDS[:, :8], cache_implementation="static", compile_config=config)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch.equal(found, greedy_by_hand(model, IDS[:, :8]))


@pytest.mark.slow
def test_a_compiled_beginning_refuses_a_static_cache_that_another_model_filled() -> None:
    model = trained_memory()
    compiled = torch.compile(model, backend="aot_eager")
    fresh, filled = (StaticCache(config=model.config, max_cache_len=32) for _ in range(2))
    for cache, read in ((fresh, 0), (filled, 8)):
        cache.early_initialization(2, model.config.num_key_value_heads, 8, torch.float32, torch.device("cpu"))
        if read:
            logits_of(tiny_model(), IDS[:, :read], cache=cache)
    torch.testing.assert_close(
        logits_of(compiled, IDS[:, :8], cache=fresh), logits_of(model, IDS[:, :8]), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(RuntimeError, match="filled without this model"):
        logits_of(compiled, IDS[:, 8:12], cache=filled)


class Searched(TorchDispatchMode):
    """Notes what sorted tensors are searched."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[torch.Tensor] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.searchsorted.Tensor:
            self.tensors.append(args[0])
        return function(*args, **(kwargs or {}))


def test_known_keys_are_searched_whole() -> None:
    """A slice of them is searched wrongly by torch before 2.13 where it compiles for a GPU."""
    model = trained_memory(**MEMORIES["exact"])
    with Searched() as searched:
        logits_of(model, IDS)
    assert [(keys.storage_offset(), keys.untyped_storage().nbytes() // 8) for keys in searched.tensors] == [
        (0, len(model.base_model.engram_index["default"].ngram_keys))
    ]


def test_a_compiled_exact_memory_is_silent_where_nothing_is_known() -> None:
    model = trained_memory(**MEMORIES["exact"])
    known = {tuple(pair) for pair in model.base_model.engram_index["default"].ngrams[:, :2].tolist()}
    text = list(range(3, 90, 2))
    assert not known & {(b, a) for a, b in zip([0, *text[:-1]], text, strict=True)}
    ids = torch.tensor([text])
    compiled = torch.compile(model, fullgraph=True, backend=Graphs())
    assert torch.equal(logits_of(compiled, ids, use_cache=False), logits_of(tiny_model(), ids, use_cache=False))
