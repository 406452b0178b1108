"""Sizes that are advised are those of what a study would train, and the configs to paste are configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tinyengram import EngramConfig, collect_ngrams, compress_vocabulary, load_conversations
from tinyengram.errors import TinyEngramError
from tinyengram.memory.collect import count_ngrams
from tinyengram.sources import Base, load_base
from tinyengram.study.advice import NgramAdvice, advise_ngrams
from tinyengram.study.plan import ArmSection
from tinyengram.tasks.chat_data import split
from tinyengram.tasks.rendering import EncodedExample, Renderer, encode_all
from tinyengram.training import check_config, peft_config

BASE = "tiny-random-llama"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    cities = ["Oslo", "Rome", "Bonn", "Lima", "Cairo", "Paris", "Quito", "Seoul", "Tunis", "Dakar"] * 3
    rows = [
        {"messages": [{"role": "user", "content": f"{city}?"}, {"role": "assistant", "content": f"{city} {at}."}]}
        for at, city in enumerate(cities)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(BASE)


@pytest.fixture(scope="module")
def advice(file: str) -> NgramAdvice:
    return advise_ngrams(file, BASE, orders=(2, 4), eval_fraction=0.2)


@pytest.fixture(scope="module")
def parts(file: str, base: Base) -> list[list[EncodedExample]]:
    """What a study would train on, and hold out."""
    both = split(load_conversations(file).conversations, eval_fraction=0.2)
    renderer = Renderer(base.tokenizer)
    return [encode_all(part, renderer).examples for part in (both.train, both.held_out)]


def windows(examples: list[EncodedExample], base: Base, order: int) -> list[tuple[int, ...]]:
    """N-grams before each learnt token, found by hand."""
    canonical = compress_vocabulary(base.tokenizer).tolist()
    found = []
    for example in examples:
        ids = [canonical[base.tokenizer.pad_token_id]] * order + [canonical[one] for one in example.input_ids]
        found += [tuple(ids[at : at + order]) for at in range(len(example.input_ids)) if example.answer_mask[at]]
    return found


def test_counts_and_coverage_are_those_of_the_study(advice: NgramAdvice, parts: list, base: Base) -> None:
    assert (advice.train_texts, advice.held_out_texts) == (24, 6)
    assert [one.order for one in advice.orders] == [2, 4]
    for one in advice.orders:
        learnt, held_out = (windows(part, base, one.order) for part in parts)
        assert one.known == len(set(learnt))
        assert one.seen_once == sum(learnt.count(ngram) == 1 for ngram in set(learnt))
        assert one.mean_count == len(learnt) / len(set(learnt))
        assert one.coverage == sum(ngram in set(learnt) for ngram in held_out) / len(held_out)
        assert 0 < one.coverage < 1
        assert one.anywhere > one.known
    assert advice.train_answer_tokens == len(windows(parts[0], base, 2))
    assert advice.held_out_answer_tokens == len(windows(parts[1], base, 2))


def test_an_exact_memory_has_a_row_for_each_known_ngram(advice: NgramAdvice) -> None:
    known = sum(one.known for one in advice.orders)
    assert [one.n_embed_per_ngram for one in advice.exact] == [64, 128, 256, 512]
    assert {one.rows for one in advice.exact} == {(known + 1) * 3}
    for one in advice.exact:
        assert one.tables_mib == round(one.rows * one.n_embed_per_ngram * 4 / 2**20, 2)


def test_the_least_hashed_memory_that_tells_ngrams_apart_is_advised(advice: NgramAdvice) -> None:
    (advised,) = (one for one in advice.hashed if one.advised)
    assert max(advised.sharing_everywhere) <= 0.01
    for smaller in advice.hashed[: advice.hashed.index(advised)]:
        assert max(smaller.sharing_everywhere) > 0.01
    assert all(len(one.engram_vocab_size) == 3 for one in advice.hashed)  # A hashed memory has order 3 too.
    assert [one.rows for one in advice.hashed] == sorted(one.rows for one in advice.hashed)


def test_the_study_lines_make_the_arm_and_the_program_the_same_config(
    advice: NgramAdvice, parts: list, base: Base
) -> None:
    at_hand = {
        "EngramConfig": EngramConfig,
        "collect_ngrams": collect_ngrams,
        "compress_vocabulary": compress_vocabulary,
        "tokenizer": base.tokenizer,
        "texts_as_ids": [example.input_ids for example in parts[0]],
        "answer_masks": [example.answer_mask for example in parts[0]],
    }
    for snippet in (advice.exact_config, advice.hashed_config):
        ((_, arm),) = yaml.safe_load(snippet.study).items()
        section = ArmSection.model_validate(arm)
        of_study = peft_config(section.method, section.options, base=base, train=parts[0])
        of_program = eval(snippet.python, at_hand)
        assert of_program == of_study
        check_config(of_program, base)
    exact = eval(advice.exact_config.python, at_hand)
    assert len(exact.ngrams) == sum(one.known for one in advice.orders)


def test_what_is_not_counted_is_said(file: str, tmp_path: Path) -> None:
    long = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "very " * 90}]
    long.write_text(Path(file).read_text() + (json.dumps({"messages": chat}) + "\n") * 8)
    advice = advise_ngrams(str(long), BASE, max_length=100)
    assert sum(one.count for one in advice.left_out) == 8
    assert advice.train_texts + advice.held_out_texts == 30
    few = advise_ngrams(str(long), BASE, eval_fraction=0.1)
    assert "Only 4 of 38 conversations are held out" in few.remarks[-1]
    short = advise_ngrams(str(long), BASE, max_length=100, eval_fraction=0.15)
    assert short.held_out_texts == 5 or "too few to go by" in short.remarks[-1]


def test_values_out_of_range_are_refused_with_the_remedy(file: str) -> None:
    with pytest.raises(TinyEngramError, match=r"orders=\[0, 2\]: give at least one order from 1 on"):
        advise_ngrams(file, BASE, orders=(0, 2))
    with pytest.raises(TinyEngramError, match=r"widths=\[0\] is refused: n_embed_per_ngram=0"):
        advise_ngrams(file, BASE, widths=(0,))


def test_counts_are_what_is_collected() -> None:
    texts = [[1, 2, 3, 1, 2], [1, 2]]
    counts = count_ngrams(texts, orders=(1, 2))
    assert counts.positions == 7
    assert counts.counts[counts.is_of(1)].sum() == counts.counts[counts.is_of(2)].sum() == 7
    assert len(collect_ngrams(texts, orders=(1, 2))) == len(counts.keys)
    assert counts.count_of(counts.keys).tolist() == counts.counts.tolist()
