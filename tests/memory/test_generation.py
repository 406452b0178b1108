"""A memory gives the same however it is run: each way is compared with one full forward without a cache.

The tolerance is what the base itself shows between the two ways, with room for rounding.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests.memory.tiny import (
    VOCABULARY,
    full,
    generate,
    greedy_by_hand,
    logits_of,
    on,
    some_ids,
    tiny_model,
    trained_memory,
)
from tinyengram import collect_ngrams
from tinyengram.host import cache_of

TOLERANCE = 2e-4
MEMORIES = {
    "hashed": {},
    "hashed, no convolution": {"kernel_size": 0},
    "hashed, 4-grams": {"max_ngram_size": 4, "engram_vocab_size": [60, 30, 30]},
    "exact": {"memory": "exact"},
    "latched": {"open_after": some_ids(2, 24)[0, 3:5].tolist()},
    "exact, latched": {"memory": "exact", "open_after": some_ids(2, 24)[:, 3:6].tolist()},
}


@pytest.fixture(params=MEMORIES)
def model(request: pytest.FixtureRequest):
    options = dict(MEMORIES[request.param])
    if options.get("memory") == "exact":
        options["ngrams"] = collect_ngrams(some_ids(6, 40, seed=5).tolist() + some_ids(2, 24).tolist(), orders=(2, 3))
    return trained_memory(**options)


@pytest.fixture
def ids() -> torch.Tensor:
    return some_ids(2, 24)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


def test_the_memory_under_test_matters(model, ids) -> None:
    with model.disable_adapter():
        base = full(model, ids)
    assert (full(model, ids) - base).abs().max() > 1


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [10, 1, 1, 12], [3, 20, 1]])
def test_chunked_prefill(model, ids, sizes) -> None:
    cache, parts, start = DynamicCache(config=model.config), [], 0
    for size in sizes:
        parts.append(logits_of(model, ids[:, start : start + size], cache=cache, use_cache=True))
        start += size
    close(torch.cat(parts, dim=1), full(model, ids))


def test_a_cache_made_by_the_model_itself(model, ids) -> None:
    with torch.no_grad():
        first = model(input_ids=ids[:, :10], use_cache=True)
        second = model(input_ids=ids[:, 10:], **on(model, cache_of(first)))
    close(torch.cat([first.logits, second.logits], dim=1), full(model, ids))


def test_a_lazily_grown_cache(model, ids) -> None:
    cache = DynamicCache()
    parts = [logits_of(model, part, cache=cache) for part in ids.split(8, dim=1)]
    close(torch.cat(parts, dim=1), full(model, ids))


def test_static_cache(model, ids) -> None:
    cache = StaticCache(config=model.config, max_cache_len=32)
    parts = [logits_of(model, part, cache=cache) for part in ids.split([9, 1, 14], dim=1)]
    close(torch.cat(parts, dim=1), full(model, ids))


def test_static_cache_is_read_again_after_a_reset(model, ids) -> None:
    cache = StaticCache(config=model.config, max_cache_len=32)
    logits_of(model, ids.flip(1), cache=cache)
    cache.reset()
    close(logits_of(model, ids, cache=cache), full(model, ids))


def test_greedy_generation(model, ids) -> None:
    wanted = greedy_by_hand(model, ids[:, :8])
    assert torch.equal(generate(model, ids[:, :8]), wanted)
    assert torch.equal(generate(model, ids[:, :8], cache_implementation="static"), wanted)


def test_sampled_generation(model, ids) -> None:
    def sampled(use_cache: bool) -> torch.Tensor:
        torch.manual_seed(0)
        return generate(model, ids[:, :8], do_sample=True, use_cache=use_cache, num_return_sequences=2)

    assert torch.equal(sampled(True), sampled(False))


@pytest.mark.parametrize("returned", [1, 3])
def test_beam_search(model, ids, returned) -> None:
    options = {"num_beams": 4, "num_return_sequences": returned, "output_scores": True, "return_dict_in_generate": True}
    cached = generate(model, ids[:, :8], use_cache=True, **options)
    uncached = generate(model, ids[:, :8], use_cache=False, **options)
    assert torch.equal(cached.sequences, uncached.sequences)
    close(cached.sequences_scores, uncached.sequences_scores)


def test_prompt_lookup_decoding(model, ids) -> None:
    prompt = torch.cat([ids[:1, :8], ids[:1, :8]], dim=1)
    never = VOCABULARY  # Older releases of transformers need an end token here.
    found = generate(model, prompt, prompt_lookup_num_tokens=4, eos_token_id=never)
    assert torch.equal(found, greedy_by_hand(model, prompt))


def test_assisted_decoding_with_rollback(model, ids) -> None:
    assistant = tiny_model(seed=0)  # The base itself: often wrong about what the memory says, so drafts are rejected.
    assert torch.equal(generate(model, ids[:1, :8], assistant_model=assistant), greedy_by_hand(model, ids[:1, :8]))


def test_a_cropped_cache(model, ids) -> None:
    cache = DynamicCache(config=model.config)
    logits_of(model, torch.cat([ids[:, :10], ids[:, :7]], dim=1), cache=cache)
    cache.crop(-7)
    close(logits_of(model, ids[:, 10:], cache=cache), full(model, ids)[:, 10:])


def test_a_repeated_and_selected_cache(model, ids) -> None:
    cache = DynamicCache(config=model.config)
    logits_of(model, ids[:, :10], cache=cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    rows = torch.tensor([1, 0])
    close(logits_of(model, ids[rows, 10:], cache=cache), full(model, ids[rows])[:, 10:])


def test_a_copied_cache_goes_its_own_way(model, ids) -> None:
    cache = DynamicCache(config=model.config)
    logits_of(model, ids[:, :10], cache=cache)
    branch = copy.deepcopy(cache)
    logits_of(model, ids.flip(1), cache=branch)
    close(logits_of(model, ids[:, 10:], cache=cache), full(model, ids)[:, 10:])


@pytest.mark.parametrize("pad", [0, 50])
def test_left_padding_with_any_pad_id(model, ids, pad) -> None:
    padded = torch.cat([torch.full((2, 5), pad), ids], dim=1)
    mask = torch.cat([torch.zeros(2, 5), torch.ones(2, 24)], dim=1).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    wanted = full(model, ids)
    close(full(model, padded, attention_mask=mask, position_ids=positions)[:, 5:], wanted)
    close(full(model, padded, attention_mask=mask)[:, 5:], wanted)


@pytest.mark.parametrize("pad", [0, 50])
def test_right_padding_with_any_pad_id(model, ids, pad) -> None:
    padded = torch.cat([ids, torch.full((2, 5), pad)], dim=1)
    mask = torch.cat([torch.ones(2, 24), torch.zeros(2, 5)], dim=1).long()
    close(full(model, padded, attention_mask=mask)[:, :24], full(model, ids))


def test_left_padded_cached_decoding(model, ids) -> None:
    padded = torch.cat([torch.full((2, 3), 50), ids], dim=1)
    mask = torch.cat([torch.zeros(2, 3), torch.ones(2, 24)], dim=1).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, parts = DynamicCache(config=model.config), []
    for start, end in ((0, 12), (12, 13), (13, 27)):
        parts.append(
            logits_of(
                model,
                padded[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=positions[:, start:end],
                cache=cache,
            )
        )
    close(torch.cat(parts, dim=1)[:, 3:], full(model, ids))


def test_packed_documents_with_reset_positions(model, ids) -> None:
    packed = ids.reshape(1, -1)
    positions = torch.arange(24).repeat(2)[None]
    found = full(model, packed, position_ids=positions)
    close(found.reshape(2, 24, -1), full(model, ids))


def test_packed_documents_with_a_block_mask(model, ids) -> None:
    packed = ids.reshape(1, -1)
    document = torch.arange(48) // 24
    allowed = (document[:, None] == document[None]) & torch.ones(48, 48).tril().bool()
    positions = torch.arange(24).repeat(2)[None]
    found = full(model, packed, attention_mask=allowed[None, None], position_ids=positions)
    close(found.reshape(2, 24, -1), full(model, ids))


def test_a_block_mask_alone_separates_documents(model, ids) -> None:
    packed = ids.reshape(1, -1)
    document = torch.arange(48) // 24
    allowed = (document[:, None] == document[None]) & torch.ones(48, 48).tril().bool()
    added = torch.zeros(1, 1, 48, 48).masked_fill(~allowed, torch.finfo(torch.float32).min)
    # Rotary positions are relative, so a block mask is enough to separate documents for the base as well.
    close(full(model, packed, attention_mask=added).reshape(2, 24, -1), full(model, ids))


def test_a_one_token_prompt_after_another_call(model, ids) -> None:
    alone = full(model, ids[:, :1])
    full(model, ids)
    close(logits_of(model, ids[:, :1]), alone)
    logits_of(model, ids, use_cache=True)
    close(logits_of(model, ids[:, :1]), alone)


def test_two_interleaved_generations(model, ids) -> None:
    caches = [DynamicCache(config=model.config) for _ in range(2)]
    texts, parts = [ids, ids.flip(1)], [[], []]
    for start in range(0, 24, 6):
        for which in range(2):
            part = texts[which][:, start : start + 6]
            parts[which].append(logits_of(model, part, cache=caches[which]))
    for which in range(2):
        close(torch.cat(parts[which], dim=1), full(model, texts[which]))


def test_nothing_is_kept_between_calls(model, ids) -> None:
    full(model, ids)
    slots = {id(module.slot): module.slot for module in model.modules() if hasattr(module, "slot")}
    assert [slot.reading for slot in slots.values()] == [None]
    with pytest.raises(IndexError):
        model(input_ids=torch.full((1, 3), 10_000))
    assert [slot.reading for slot in slots.values()] == [None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model, ids, dtype) -> None:
    with model.disable_adapter():
        base = full(model, ids)
        with torch.autocast("cpu", dtype):
            noise = (full(model, ids).float() - base).abs().max()
    with torch.autocast("cpu", dtype):
        found = full(model, ids).float()
    wanted = full(model, ids)
    assert (found - wanted).abs().max() < 6 * noise + 0.05 * wanted.abs().max()
    assert torch.isfinite(found).all()


def test_a_memory_in_float32_on_a_bfloat16_base(ids) -> None:
    from peft import get_peft_model

    from tests.memory.tiny import stir, tiny_config

    model = get_peft_model(tiny_model(dtype=torch.bfloat16).to(torch.bfloat16), tiny_config())
    stir(model)
    tables = next(p for name, p in model.named_parameters() if name.endswith("tables.weight"))
    assert tables.dtype == torch.float32
    whole = full(model, ids)
    cache = DynamicCache(config=model.config)
    parts = [logits_of(model, part, cache=cache) for part in ids.split([9, 1, 14], dim=1)]
    assert whole.dtype == torch.bfloat16
    with model.disable_adapter():
        cache = DynamicCache(config=model.config)
        base_parts = [logits_of(model, part, cache=cache) for part in ids.split([9, 1, 14], dim=1)]
        noise = (torch.cat(base_parts, dim=1) - full(model, ids)).abs().max()
    assert (torch.cat(parts, dim=1) - whole).abs().max() <= 8 * noise + 0.1


@pytest.mark.slow  # test_compile compiles each kind too, the model as a whole graph.
def test_compiled_forward(model, ids) -> None:
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        found = compiled(input_ids=ids, use_cache=False).logits
    close(found, full(model, ids))
