"""A memory with a latch is the base to the bit until a text was opened, and from there on what it is without one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from transformers import DynamicCache

from tests.memory.promises import added
from tests.memory.tiny import full, logits_of, some_ids, stir, tiny_config, tiny_model, trained_memory
from tinyengram import EngramConfig, collect_ngrams
from tinyengram.memory.cache import MARGIN, ForgottenError
from tinyengram.memory.latch import LONGEST, common_opening, holds_any, opening_of_tools, openings_of
from tinyengram.memory.layer import EngramMemory
from tinyengram.memory.optim import row_sparse_adamw
from tinyengram.sources import load_base, load_tokenizer

OPENING = [90, 91, 92]
# Known to the exact memory wherever they stand.
TOKENS = list(range(3, 9))
KNOWN = collect_ngrams([[a, b] for a in TOKENS + OPENING for b in TOKENS + OPENING], orders=(2,), pad_token_id=0)
MEMORIES: dict[str, dict[str, Any]] = {
    "hashed": {},
    "hashed, no convolution": {"kernel_size": 0},
    "hashed, hard gate": {"gate": "hard"},
    "exact": {"memory": "exact", "ngrams": KNOWN},
    "exact, one row": {"memory": "exact", "ngrams": KNOWN, "rows": "single"},
}
LATCHED = {name: trained_memory(open_after=OPENING, **options) for name, options in MEMORIES.items()}
OPEN = {name: trained_memory(**options) for name, options in MEMORIES.items()}
BASE = tiny_model()

words = st.lists(st.sampled_from([*TOKENS, *OPENING]), max_size=6)
# A text with or without the whole opening in it; its parts may stand anywhere.
texts = st.tuples(words, st.booleans(), words).map(lambda one: [*one[0], *(OPENING if one[1] else []), *one[2], 5])


def opened_by_hand(text: list[int]) -> list[bool]:
    return [any(text[at - 2 : at + 1] == OPENING for at in range(2, place + 1)) for place in range(len(text))]


def in_chunks(model: Any, ids: torch.Tensor, sizes: list[int], **whole: torch.Tensor) -> torch.Tensor:
    cache, parts, start = DynamicCache(config=BASE.config), [], 0
    for size in [*sizes, *[1] * ids.shape[1]]:
        end = min(start + size, ids.shape[1])
        if end > start:
            more = {name: value[:, :end] for name, value in whole.items() if name == "attention_mask"}
            more |= {name: value[:, start:end] for name, value in whole.items() if name == "position_ids"}
            parts.append(logits_of(model, ids[:, start:end], cache=cache, **more))
        start = end
    return torch.cat(parts, dim=1)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(texts, min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 9), max_size=5),
    memory=st.sampled_from(list(MEMORIES)),
    cached=st.booleans(),
)
def test_shut_is_the_base_to_the_bit(rows: list[list[int]], sizes: list[int], memory: str, cached: bool) -> None:
    """Random texts, padded on the left to end together, read at once or in chunks."""
    longest = max(map(len, rows))
    ids = torch.tensor([[90] * (longest - len(text)) + text for text in rows])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in rows])
    whole = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    opened = torch.tensor([[False] * (longest - len(text)) + opened_by_hand(text) for text in rows])

    def read(model: Any) -> torch.Tensor:
        return in_chunks(model, ids, sizes, **whole) if cached else full(model, ids, **whole)

    found, base = read(LATCHED[memory]), read(BASE)
    assert torch.equal(found[~opened], base[~opened])
    assert not opened.any() or (found[opened] - base[opened]).abs().amax(-1).min() > 0
    torch.testing.assert_close(found, full(LATCHED[memory], ids, **whole), atol=2e-4, rtol=0)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(texts, min_size=1, max_size=5), memory=st.sampled_from(list(MEMORIES)))
def test_packed_texts_are_opened_each_for_itself(rows: list[list[int]], memory: str) -> None:
    ids = torch.tensor([[token for text in rows for token in text]])
    positions = torch.tensor([[place for text in rows for place in range(len(text))]])
    spoken = added(LATCHED[memory], ids, position_ids=positions)[0].any(-1).tolist()
    opened = [place for text in rows for place in opened_by_hand(text)]
    if "hard gate" in memory:  # It may be shut where the latch is open.
        spoken = [one or (place and not one) for one, place in zip(spoken, opened, strict=True)]
    assert spoken == opened


@pytest.mark.parametrize("memory", ["hashed, no convolution", "exact"])
def test_what_is_open_is_what_it_is_without_a_latch(memory: str) -> None:
    """Where it was open from the first token on; without a convolution or n-grams that reach behind it, anywhere."""
    ids = torch.tensor([[*OPENING, 5, 4, 3, 8, 6, *TOKENS]])
    found, wanted = added(LATCHED[memory], ids), added(OPEN[memory], ids)
    assert wanted[:, :2].any()
    assert not found[:, :2].any()
    if memory == "exact":  # Its convolution read nothing before the opening.
        wanted = wanted[:, 2 + 9 :]
    torch.testing.assert_close(found[:, -wanted.shape[1] :][:, -3:], wanted[:, -3:])


def test_the_convolution_looks_back_at_what_was_read_open_alone() -> None:
    ids = torch.tensor([[5, 4, 3, 8, *OPENING, 6, *TOKENS]])
    other = torch.tensor([[3, 3, 7, 4, *OPENING, 6, *TOKENS]])
    found, wanted = added(LATCHED["exact"], ids), added(LATCHED["exact"], other)
    assert not torch.equal(added(OPEN["exact"], ids)[:, 6:], added(OPEN["exact"], other)[:, 6:])
    assert torch.equal(found[:, 6:], wanted[:, 6:])


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_crop_behind_the_opening_shuts_again_and_one_to_it_does_not(memory: str) -> None:
    model, start, rest = LATCHED[memory], [5, 6, *OPENING], [4, 3, 5, 6]
    for keep, opened in ((4, False), (5, True)):
        cache = DynamicCache(config=BASE.config)
        logits_of(model, torch.tensor([[*start, 3, 3, 3]]), cache=cache)
        cache.crop(keep - 8)
        found = logits_of(model, torch.tensor([rest]), cache=cache)
        text = torch.tensor([[*start[:keep], *rest]])
        torch.testing.assert_close(found, full(model, text)[:, keep:], atol=2e-4, rtol=0)
        assert torch.allclose(full(model, text), full(BASE, text), atol=1e-3) != opened


def test_behind_much_padding_another_text_is_shut() -> None:
    """So much that the numbers of texts begin again."""
    model, length = LATCHED["hashed"], 2 * MARGIN + 40
    ids = torch.cat([torch.tensor([OPENING + TOKENS]), torch.full((1, length), 5), torch.tensor([TOKENS])], dim=1)
    mask = torch.ones_like(ids)
    mask[:, 9 : 9 + length] = 0
    positions = torch.cat([torch.arange(9), torch.zeros(length, dtype=torch.long), torch.arange(6)])[None]
    cache, parts = DynamicCache(config=BASE.config), []
    base_cache, wanted = DynamicCache(config=BASE.config), []
    for start, end in ((0, 9), (9, 9 + length), (9 + length, 15 + length)):
        more = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
        parts.append(logits_of(model, ids[:, start:end], cache=cache, **more))
        wanted.append(logits_of(BASE, ids[:, start:end], cache=base_cache, **more))
    entry = cache.layers[-1]
    assert entry.values["default", -1].kept[0, -6:, 0].tolist() == [0] * 6
    assert (parts[0] - wanted[0]).abs().max() > 1


def test_what_opens_it_may_be_read_while_it_is_switched_off() -> None:
    model, ids = LATCHED["hashed, no convolution"], torch.tensor([[5, *OPENING, 3, 4, 5, 6]])
    cache = DynamicCache(config=BASE.config)
    with model.disable_adapter():
        logits_of(model, ids[:, :5], cache=cache)
    copied = copy.deepcopy(cache)
    found = logits_of(model, ids[:, 5:], cache=cache)
    with model.disable_adapter():
        base = logits_of(model, ids[:, 5:], cache=copied)
    assert (found - base).abs().max() > 1


def test_each_adapter_has_a_latch_of_its_own() -> None:
    model = get_peft_model(tiny_model(), tiny_config(open_after=OPENING), adapter_name="one")
    model.add_adapter("two", tiny_config(open_after=[5, 6], seed=1))
    model.add_adapter("three", tiny_config(seed=2))
    for name in ("one", "two", "three"):
        model.set_adapter(name)
        stir(model)
    ids = torch.tensor([[3, *OPENING, 4, 5, 6, 7, 8]])
    spoken = {}
    for name in ("one", "two", "three"):
        model.set_adapter(name)
        base = full(BASE, ids)
        spoken[name] = [bool(place) for place in (full(model, ids) - base)[0].any(-1)]
        torch.testing.assert_close(in_chunks(model, ids, [2, 3]), full(model, ids), atol=2e-4, rtol=0)
    assert spoken == {"one": [False] * 3 + [True] * 6, "two": [False] * 6 + [True] * 3, "three": [True] * 9}
    model.base_model.set_adapter(["one", "two"])
    torch.testing.assert_close(in_chunks(model, ids, [2, 3]), full(model, ids), atol=2e-4, rtol=0)


def test_one_that_was_added_after_the_cache_was_filled_does_not_guess() -> None:
    model = get_peft_model(tiny_model(), tiny_config(), adapter_name="one")
    cache = DynamicCache(config=BASE.config)
    logits_of(model, torch.tensor([OPENING]), cache=cache)
    model.add_adapter("two", tiny_config(open_after=OPENING))
    logits_of(model, torch.tensor([[5]]), cache=cache)
    model.set_adapter("two")
    with pytest.raises(ForgottenError, match=r"whether the latch .open_after. of the memory 'two' was opened.*fresh"):
        logits_of(model, torch.tensor([[5]]), cache=cache)
    logits_of(model, torch.tensor([[5]]), cache=DynamicCache(config=BASE.config))


@pytest.mark.parametrize("memory", MEMORIES)
def test_nothing_is_learnt_where_it_is_shut(memory: str) -> None:
    model = get_peft_model(tiny_model(), tiny_config(open_after=OPENING, **MEMORIES[memory]))
    optimizer = row_sparse_adamw(model, 1e-2)

    def step(ids: list[int]) -> list[int]:
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tables = [module.tables.weight for module in model.modules() if isinstance(module, EngramMemory)]
        return [int(table.any(-1).sum()) for table in tables]

    assert step([5, 6, 7, *OPENING[:2], 3, 4]) == [0, 0]
    first = step([5, 6, 7, *OPENING, 3, 4])
    assert min(first) > 0
    assert step([5, 6, 7, 3, 3, 8]) == first


def test_saved_with_ids_and_loaded_without_a_tokenizer(tmp_path: Path) -> None:
    ids = torch.tensor([[5, 6, *OPENING, 3, 4]])
    LATCHED["hashed"].save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert torch.equal(full(back, ids), full(LATCHED["hashed"], ids))
    file = tmp_path / "adapter_config.json"
    said = json.loads(file.read_text())
    assert said["fingerprint"]["open_after"] == [OPENING]
    elsewhere = {**said["fingerprint"], "open_after": [[3]]}
    for changed in ({"open_after": None}, {"open_after": [3]}, {"fingerprint": elsewhere}):
        file.write_text(json.dumps({**said, **changed}))
        with pytest.raises(Exception, match="checksum is not that of its tensors and options"):
            PeftModel.from_pretrained(tiny_model(), tmp_path)


@pytest.mark.parametrize("given", [[], [[]], [3, True], [3, -1], [3, "x"], "", [[3], 4], 5, {"after": 3}])
def test_what_is_no_opening_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="open_after="):
        tiny_config(open_after=given)


def test_bounds_of_an_opening() -> None:
    assert tiny_config(open_after=[3] * LONGEST).open_after == [3] * LONGEST
    assert tiny_config(open_after=[0, 3]).open_after == [0, 3]
    with pytest.raises(ValueError, match=f"{LONGEST + 1} tokens in a row, and {LONGEST} is the most"):
        tiny_config(open_after=[3] * (LONGEST + 1))
    with pytest.raises(ValueError, match=r"open_after names \[97\], and the base has 97 tokens"):
        get_peft_model(tiny_model(), tiny_config(open_after=[96, 97]))


def test_words_need_the_bases_tokenizer() -> None:
    with pytest.raises(ValueError, match=r"open_after='tools' needs the base's tokenizer.*opening_of_tools"):
        get_peft_model(tiny_model(), tiny_config(open_after="tools"))
    with pytest.raises(ValueError, match=r"open_after='<tools>' needs the base's tokenizer.*tokenizer.encode"):
        get_peft_model(tiny_model(), tiny_config(open_after="<tools>"))


def test_one_config_serves_two_adapters() -> None:
    config = EngramConfig(**{**tiny_config().to_dict(), "open_after": [OPENING, [5, 6]], "peft_type": "ENGRAM"})
    models = [get_peft_model(tiny_model(), config) for _ in range(2)]
    stir(models[0])
    stir(models[1])
    ids = some_ids()
    assert torch.equal(full(models[0], ids), full(models[1], ids))


def test_the_run_that_all_share_and_no_other_holds() -> None:
    opened = [[1, 2, 3, 4, 9], [7, 2, 3, 4, 8], [2, 3, 4]]
    assert common_opening(opened, [[1, 2, 4], [3, 9]], set()) == [2, 3, 4]
    assert common_opening(opened, [[1, 2, 4], [3, 9]], {4}, at_most=2) == [3, 4]
    assert common_opening(opened, [[1, 2, 3, 9], [3, 4]], set(), at_most=3) == [2, 3, 4]
    for shut in ([[2, 3, 4]], [[0, 2, 3, 4, 0]]):
        with pytest.raises(ValueError, match="nothing that stands wherever tools are offered and nowhere else"):
            common_opening(opened, shut, set())
    with pytest.raises(ValueError, match="nothing that stands"):
        common_opening([], [], set())


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
DAY = "<|im_start|>system\nIt is {{ strftime_now('%B %d, %Y') }}."
TOLD = "{% if tools %}T: {% for one in tools %}{{ one | tojson }}{% endfor %}{% endif %}<|im_end|>\n"


def test_an_opening_is_found_that_is_the_same_tomorrow_and_that_no_json_of_a_user_is() -> None:
    """The last brace of a description with the token that ends its turn is also the end of a user's JSON."""
    tokenizer = load_base("tiny-random-llama").tokenizer
    tokenizer.chat_template = DAY + TOLD + TURNS
    opening = tokenizer.decode(opening_of_tools(tokenizer))
    assert opening.startswith(".T: ")
    tokenizer.chat_template = "{% if tools %}<|im_start|>tools\n" + TOLD[14:] + TURNS
    tokenizer.chat_template = tokenizer.chat_template.replace("{% endif %}<|im_end|>\n", "<|im_end|>\n{% endif %}")
    assert tokenizer.decode(opening_of_tools(tokenizer)).startswith("<|im_start|>tools")
    tokenizer.chat_template = TURNS
    with pytest.raises(ValueError, match="writes nothing that stands wherever tools are offered"):
        opening_of_tools(tokenizer)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("tiny-random-llama")


@pytest.mark.parametrize("text", ["<tools>", "You may call", "x", "a\nb"])
def test_a_text_opens_wherever_it_stands_and_nothing_less_does(tokenizer: Any, text: str) -> None:
    runs = openings_of(text, len(tokenizer), lambda: tokenizer)
    for before in ("", " ", "\n", "Say: ", "7"):
        for behind in ("", " ", "\n\n", ".", "x7"):
            ids = tokenizer(f"{before}{text}{behind}", add_special_tokens=False)["input_ids"]
            assert holds_any(ids, runs), (before, behind)
    for less in (text[1:], text[:-1], text[::-1] if text != text[::-1] else "", "7 . {"):
        ids = tokenizer(f"Well {less} 7", add_special_tokens=False)["input_ids"]
        assert text in less or not holds_any(ids, runs), less
    assert openings_of([0, 3], len(tokenizer), lambda: tokenizer) == [[0, 3]]


def test_texts_that_cannot_be_named(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=rf"is written with \d+ to \d+ tokens; name a text of 1 to {LONGEST}"):
        openings_of("abc " * 100, len(tokenizer), lambda: tokenizer)
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(ValueError, match=r"a SimpleNamespace does not tell which tokens write a text\. Name token ids"):
        openings_of("<tools>", 97, lambda: slow)
    with pytest.raises(ValueError, match=r"the tokenizer has no chat template\. Name a text"):
        openings_of("tools", 97, lambda: SimpleNamespace(chat_template=None))


def test_whether_nothing_opens_any_memory() -> None:
    model = get_peft_model(tiny_model(), tiny_config(open_after=[OPENING, [3, 4]]), adapter_name="one")
    tuner = model.base_model
    assert tuner.stays_shut([[5, 6, 90, 91], [4, 3], []])
    for text in ([*OPENING], [5, 3, 4], [5, *OPENING, 5]):
        assert not tuner.stays_shut([[5, 6], text])
    model.add_adapter("two", tiny_config(open_after=[7]))
    assert not tuner.stays_shut([[5, 7]])
    assert tuner.stays_shut([[5, 6]])
    model.add_adapter("three", tiny_config())
    assert not tuner.stays_shut([[5, 6]])
    whole = get_peft_model(tiny_model(), tiny_config(open_after=[7], modules_to_save=["lm_head"]))
    assert not whole.base_model.stays_shut([[5, 6]])
