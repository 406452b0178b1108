"""What a memory keeps on the cache is a window of the text, and everything is as if it had kept the whole."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests.memory.tiny import logits_of, on, some_ids, stir, tiny_config, tiny_model, trained_memory
from tinyengram import collect_ngrams
from tinyengram.memory import cache as cache_module
from tinyengram.memory.cache import MARGIN, EngramCacheLayer, ForgottenError
from tinyengram.scoring.choices import ChoiceRequest, choice_log_likelihoods

TOLERANCE = 2e-4
LENGTH = 420
MEMORIES: dict[str, dict[str, Any]] = {
    "hashed": {},
    "hashed, no convolution": {"kernel_size": 0},
    "exact": {"memory": "exact"},
    "latched": {"open_after": [some_ids(2, LENGTH)[0, 4:8].tolist(), some_ids(2, LENGTH)[1, 255:257].tolist()]},
}


@pytest.fixture(params=MEMORIES, scope="module")
def model(request: pytest.FixtureRequest):
    options = dict(MEMORIES[request.param])
    if options.get("memory") == "exact":
        options["ngrams"] = collect_ngrams(some_ids(2, LENGTH).tolist() + some_ids(60, 60).tolist(), orders=(2, 3))
    return trained_memory(**options)


@pytest.fixture
def ids() -> torch.Tensor:
    return some_ids(2, LENGTH)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


def entry_of(cache: Any) -> EngramCacheLayer:
    return next(layer for layer in cache.layers if isinstance(layer, EngramCacheLayer))


def read(model, ids: torch.Tensor, sizes: list[int], cache: Any, **whole: torch.Tensor) -> torch.Tensor:
    """Logits of ``ids`` read in chunks; of a mask each chunk sees what is behind it too, of positions its own."""
    parts, start = [], 0
    for part in ids.split(sizes, dim=1):
        end = start + part.shape[1]
        more = {name: value[:, : end if name == "attention_mask" else None] for name, value in whole.items()}
        if "position_ids" in more:
            more["position_ids"] = more["position_ids"][:, start:end]
        parts.append(logits_of(model, part, cache=cache, **more))
        start = end
    return torch.cat(parts, dim=1)


SIZES = [250, *[1] * 40, 100, 30]


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 100, 2000])
def test_two_thousand_tokens_weigh_what_three_hundred_do(chunk: int) -> None:
    """In single steps, chunks, and read at once; what is pickled of a tensor is all memory that it holds."""
    model, cache, weights = trained_memory(), DynamicCache(), []
    for part in some_ids(1, 2000).split(chunk, dim=1):
        logits_of(model, part, cache=cache)
        weights.append(len(pickle.dumps(entry_of(cache))))
    assert entry_of(cache).length == cache.get_seq_length() == 2000
    known = {1: weights[299 : 299 + 2 * MARGIN], 100: weights[2:5]}.get(chunk)
    if known is None:
        short = DynamicCache()
        logits_of(model, some_ids(1, 300), cache=short)
        known = [len(pickle.dumps(entry_of(short)))]
    assert max(weights) <= max(known) + 64  # Bytes that larger numbers take.


def test_no_more_is_kept_than_a_step_looks_back_over_and_may_crop(model, ids) -> None:
    """Two tokens of a 3-gram, or three taps that are three places apart."""
    cache = DynamicCache(config=model.config)
    read(model, ids, SIZES, cache)
    options = model.peft_config["default"]
    assert entry_of(cache).tokens.shape[1] == MARGIN + (9 if options.kernel_size else 2)


@pytest.mark.parametrize("sizes", [SIZES, [1] * LENGTH, [LENGTH - 1, 1], [60] * 7])
def test_far_beyond_the_window_it_reads_as_in_one_pass(model, ids, sizes) -> None:
    close(read(model, ids, sizes, DynamicCache(config=model.config)), logits_of(model, ids, use_cache=False))


def test_the_memory_matters_at_the_end(model, ids) -> None:
    with model.disable_adapter():
        base = logits_of(model, ids, use_cache=False)
    assert (logits_of(model, ids, use_cache=False) - base)[:, -100:].abs().max() > 1


@pytest.mark.parametrize("model_type", ["mistral", "gemma3_text"])
def test_sliding_and_static_caches(ids, model_type) -> None:
    model = trained_memory(model_type)
    wanted = logits_of(model, ids, use_cache=False)
    close(read(model, ids, SIZES, DynamicCache(config=model.config)), wanted)
    if model_type == "gemma3_text":
        close(read(model, ids, SIZES, StaticCache(config=model.config, max_cache_len=LENGTH)), wanted)


def test_left_padding(model, ids) -> None:
    padded = torch.cat([torch.full((2, 300), 50), ids], dim=1)
    mask = torch.cat([torch.zeros(2, 300), torch.ones(2, LENGTH)], dim=1).long()
    mask[1] = 1  # A row as long as the padded ones, so that they end together.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded[1, :300] = some_ids(1, 300, seed=9)
    found = read(
        model,
        padded,
        [200, *SIZES, 100],
        DynamicCache(config=model.config),
        attention_mask=mask,
        position_ids=positions,
    )
    close(found[:1, 300:], logits_of(model, ids[:1], use_cache=False))
    close(found[1:], logits_of(model, padded[1:], use_cache=False))


def test_packed_documents(model, ids) -> None:
    """Positions begin again at 0; a document begins within a chunk, and with one."""
    positions = torch.cat([torch.arange(n) for n in (130, 120, 1, 9, 10, 150)])[None].expand(2, -1)
    # The base does not separate documents in a cache, so what can be compared is what a memory adds.
    whole = added(model, ids, [LENGTH], positions)
    parts = [added(model, one, [one.shape[1]], None) for one in ids.split([130, 120, 1, 9, 10, 150], dim=1)]
    close(whole, torch.cat(parts, dim=1))
    for sizes in (SIZES, [1] * LENGTH):
        close(added(model, ids, sizes, positions), whole)


def test_a_step_that_names_nothing_goes_on_with_the_last_document(model, ids) -> None:
    """Packed, then read on without positions: what was told of the past still holds."""
    positions = torch.cat([torch.arange(20), torch.arange(2)])[None].expand(2, -1)
    alone = added(model, ids[:, 20:40], [20], None)
    found = added(model, ids[:, :40], [22, *[1] * 18], positions, told_until=22)
    close(found[:, 20:], alone)


def added(
    model, ids: torch.Tensor, sizes: list[int], positions: torch.Tensor | None, *, told_until: int = LENGTH
) -> torch.Tensor:
    """What the first block's memory adds to a stream that is the same everywhere."""
    layer = next(module for module in model.modules() if hasattr(module, "engram_memory"))
    found: list[torch.Tensor] = []
    recollect, constant = layer._recollect, torch.ones(32)

    def noting(name: str, reading: Any, hidden: torch.Tensor) -> torch.Tensor:
        one = recollect(name, reading, constant.expand_as(hidden))
        found.append(torch.zeros_like(hidden) if one is None else one)
        return found[-1]

    layer._recollect = noting
    try:
        told = {} if positions is None else {"position_ids": positions}
        cache = DynamicCache(config=model.config)
        at = next(at for at in range(len(sizes) + 1) if at == len(sizes) or sum(sizes[:at]) >= told_until)
        read(model, ids[:, :told_until], sizes[:at], cache, **told)
        if at < len(sizes):
            read(model, ids[:, told_until:], sizes[at:], cache)
    finally:
        del layer._recollect
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("crop", [1, 5, 60, MARGIN])
def test_cropped_within_the_margin(model, ids, crop) -> None:
    cache = DynamicCache(config=model.config)
    wrong = ids.clone()
    wrong[:, 290:] = some_ids(2, LENGTH - 290, seed=7)
    read(model, wrong[:, : 290 + crop], [250, 40, *[1] * crop], cache)
    cache.crop(-crop)
    assert entry_of(cache).length == cache.get_seq_length() == 290
    close(read(model, ids[:, 290:], [1, 1, 100, 28], cache), logits_of(model, ids, use_cache=False)[:, 290:])


def test_cropped_again_and_again(model, ids) -> None:
    """Drafts of 20, of which few are taken."""
    cache, at, parts = DynamicCache(config=model.config), 250, []
    read(model, ids[:, :250], [250], cache)
    while at < LENGTH:
        taken = min(1 + at % 4, LENGTH - at)
        draft = torch.cat([ids[:, at : at + taken], some_ids(2, 21 - taken, seed=at)], dim=1)
        parts.append(logits_of(model, draft, cache=cache)[:, :taken])
        cache.crop(taken - 21)
        at += taken
    close(torch.cat(parts, dim=1), logits_of(model, ids, use_cache=False)[:, 250:])


def test_cropped_beyond_the_margin_is_refused_by_name(model, ids) -> None:
    cache = DynamicCache(config=model.config)
    read(model, ids, SIZES, cache)
    copied = copy.deepcopy(cache)
    cache.crop(-MARGIN - 1)
    with pytest.raises(ForgottenError, match=r"cropped too far: the memory lacks 1 of the places.*deepcopy"):
        logits_of(model, ids[:, :1], cache=cache)
    copied.crop(-MARGIN // 2)
    logits_of(model, ids[:, :1], cache=copied)
    copied.crop(-MARGIN // 2 - 2)
    with pytest.raises(ForgottenError, match="lacks 1 of the places"):
        logits_of(model, ids[:, :1], cache=copied)
    # The base can go on, and the memory too once what it looks back over was read again.
    with model.disable_adapter():
        read(model, ids[:, :20], [20], cache)
    if model.peft_config["default"].open_after is None:
        logits_of(model, ids[:, :1], cache=cache)
    else:  # What opened it may stand in what was forgotten.
        with pytest.raises(ForgottenError, match=r"latch .open_after. of the memory 'default'.*fresh cache"):
            logits_of(model, ids[:, :1], cache=cache)


def test_cropped_to_the_start_it_begins_anew(model, ids) -> None:
    """Nothing to look back at is needed there."""
    cache = DynamicCache(config=model.config)
    read(model, ids[:, :200], [200], cache)
    cache.crop(-197)
    wanted = logits_of(model, ids, use_cache=False)
    with pytest.raises(ForgottenError, match="lacks"):
        logits_of(model, ids[:, 3:], cache=cache)
    cache.crop(-3)
    assert entry_of(cache).length == 0
    close(logits_of(model, ids, cache=cache), wanted)


def test_a_short_text_can_be_cropped_anywhere(model, ids) -> None:
    for keep in (1, 2, 50):
        cache = DynamicCache(config=model.config)
        read(model, ids.flip(1)[:, :MARGIN], [100, MARGIN - 100], cache)
        other = torch.cat([ids.flip(1)[:, :keep], ids[:, keep:]], dim=1)
        cache.crop(keep - MARGIN)
        close(read(model, other[:, keep:], [1, LENGTH - keep - 1], cache), logits_of(model, other)[:, keep:])


def test_copies_go_their_own_ways(model, ids) -> None:
    """Steps write in place: never into what a copy looks back at."""
    cache = DynamicCache(config=model.config)
    read(model, ids[:, :260], [250, *[1] * 10], cache)
    branch = copy.deepcopy(cache)
    read(model, ids.flip(1)[:, :90], [1] * 90, branch)
    close(read(model, ids[:, 260:], [1] * 160, cache), logits_of(model, ids, use_cache=False)[:, 260:])


def test_what_was_read_in_inference_mode_can_be_read_on_outside(model, ids) -> None:
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        read(model, ids[:, :260], [250, *[1] * 10], cache)
    entry = entry_of(cache)
    with torch.no_grad():
        entry.extend(ids[:, :1], ids[:, :1], ids[:, :1], reach=6)
    assert torch.equal(entry.tokens[:, -2:], torch.cat([ids[:, 259:260], ids[:, :1]], dim=1))


def test_gradients_flow_through_a_cached_step(ids) -> None:
    """In place, and yet nothing that the backward pass needs is written over."""
    model = trained_memory().train()
    cache = DynamicCache(config=model.config)
    loss = sum(
        model(input_ids=part, **on(model, cache), use_cache=True).logits.float().square().mean()
        for part in ids[:, :160].split([150, *[1] * 10], dim=1)
    )
    loss.backward()


def test_rows_are_selected_repeated_and_reordered(model, ids) -> None:
    cache = DynamicCache(config=model.config)
    read(model, ids[:, :300], [280, *[1] * 20], cache)
    cache.batch_repeat_interleave(3)
    cache.reorder_cache(torch.tensor([5, 0, 1, 4, 4, 2]))
    cache.batch_select_indices(torch.tensor([0, 1, 3]))
    rows = torch.tensor([1, 0, 1])
    close(read(model, ids[rows, 300:], [1] * 120, cache), logits_of(model, ids[rows], use_cache=False)[:, 300:])


def generate(model, prompt: torch.Tensor, **options: Any) -> Any:
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, **options}
    return model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)


def test_beams_behind_a_long_prompt(model, ids) -> None:
    options = {"num_beams": 4, "output_scores": True, "return_dict_in_generate": True}
    cached = generate(model, ids[:, :250], **options)
    uncached = generate(model, ids[:, :250], use_cache=False, **options)
    assert torch.equal(cached.sequences, uncached.sequences)
    close(cached.sequences_scores, uncached.sequences_scores)


def test_assisted_decoding_with_rollback_behind_a_long_prompt(model, ids) -> None:
    wanted = generate(model, ids[:1, :250], use_cache=False)
    with_memory = trained_memory(seed=0, engram_vocab_size=[50, 20])  # Drafts of its own, taken back as well.
    for assistant in (tiny_model(seed=0), with_memory):
        assert torch.equal(generate(model, ids[:1, :250], assistant_model=assistant), wanted)
    prompt = torch.cat([ids[:1, :120], ids[:1, :120]], dim=1)
    found = generate(model, prompt, prompt_lookup_num_tokens=20, eos_token_id=97)
    assert torch.equal(found, generate(model, prompt, use_cache=False))


def test_switched_off_for_a_while_is_as_if_all_were_kept(model, ids, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_pause(pause: int) -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        read(model, ids[:, :200], [200], cache)
        with model.disable_adapter():
            read(model, ids[:, 200 : 200 + pause], [pause - 1, 1], cache)
        return read(model, ids[:, 200 + pause :], [1, 3, LENGTH - 204 - pause], cache)

    pauses = (2, 5, 200)
    windowed = [with_a_pause(pause) for pause in pauses]
    monkeypatch.setattr(cache_module, "MARGIN", 10_000)
    for found, pause in zip(windowed, pauses, strict=True):
        close(found, with_a_pause(pause))


def test_several_memories_of_unequal_reach(ids) -> None:
    model = trained_memory()
    model.add_adapter("far", tiny_config(max_ngram_size=4, engram_vocab_size=[50, 40, 30], kernel_size=6))
    model.base_model.set_adapter(["default", "far"])
    stir(model, seed=8)
    close(read(model, ids, SIZES, DynamicCache(config=model.config)), logits_of(model, ids, use_cache=False))


class Letters:
    """A tokenizer of single characters."""

    bos_token_id = 1

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [3 + ord(letter) % 90 for letter in text]


def words(length: int, seed: int) -> str:
    letters = torch.randint(97, 122, (length,), generator=torch.Generator().manual_seed(seed))
    return "".join(map(chr, letters.tolist()))


@pytest.mark.parametrize("lengths", [(500, 310, 499, 320, 480), (5, 3, 4)])
@pytest.mark.parametrize("shared", [0, 5, 300])
def test_scores_of_contexts_of_unequal_length(model, lengths, shared) -> None:
    """Contexts read together, the shorter by more than the margin: each row is taken back to its own end."""
    requests = [
        ChoiceRequest(str(n), words(shared, 1) + words(length, n), (" abc", " xyzuv", " q"))
        for n, length in enumerate(lengths, start=2)
    ]
    for request, scores in zip(requests, choice_log_likelihoods(model, Letters(), requests), strict=True):
        for choice, found in zip(request.choices, scores.log_likelihoods, strict=True):
            ids = torch.tensor([Letters().encode(request.context + choice)])
            logits = logits_of(model, ids, use_cache=False)[0, -len(choice) - 1 : -1].double().log_softmax(-1)
            wanted = logits.gather(-1, ids[0, -len(choice) :, None]).sum().item()
            assert found == pytest.approx(wanted, abs=1e-3)
