"""Answers that are generated together are those that ``generate`` gives alone, whenever each of them began."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.serving.models import adapted, spread_base
from tinyengram.serving import Generated, Served, ServingError, generate
from tinyengram.serving.batching import Batcher, BusyError
from tinyengram.serving.streams import Asked, Drawing

METHODS = {
    "engram": {"layer_ids": [1, 2], "init": "paper"},
    "lora": {"target_modules": "all-linear"},
    "prompt_tuning": {"num_virtual_tokens": 5},
}
PROMPTS = ["Hi", "Hello there, how are you today?", "A much longer text than the others. " * 8, "x"]
LENGTHS = [30, 7, 12, 45]
WAIT = 60


def served(method: str) -> Served:
    return adapted(method, **METHODS[method])


def asked(who: Served, text: str, length: int, **options: Any) -> Asked:
    ids = who.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Asked(ids, "default", [who.tokenizer.eos_token_id], length, who.tokenizer, **options)


def alone(who: Served, one: Asked) -> Generated:
    with who.model.disable_adapter() if one.adapter is None else nullcontext():
        return generate(
            who.model,
            who.tokenizer,
            one.ids,
            ends=one.ends,
            max_new_tokens=one.max_new_tokens,
            use_cache=who.use_cache,
        )


@contextmanager
def batcher(who: Served, **options: Any) -> Iterator[Batcher]:
    works = Batcher(who.model, **options)
    try:
        yield works
    finally:
        works.close()


def heard(news: queue.Queue) -> tuple[str, Any]:
    """All pieces, and what came last."""
    pieces = ""
    while isinstance(one := news.get(timeout=WAIT), str):
        pieces += one
    return pieces, one


@pytest.mark.parametrize("method", ["engram", "lora", "prompt_tuning"])
def test_together_is_what_each_is_alone(method: str) -> None:
    who = served(method)
    wanted = [asked(who, text, length) for text, length in zip(PROMPTS, LENGTHS, strict=True)]
    wanted += [replace(one, adapter=None) for one in wanted[:2]]
    expected = [alone(who, one) for one in wanted]
    with batcher(who) as works:
        news: list[queue.Queue] = [queue.Queue() for _ in wanted]
        for one, place in zip(wanted, news, strict=True):
            works.ask(one, place.put)
        got = [heard(place) for place in news]
    assert [last for _, last in got] == expected
    assert [pieces for pieces, _ in got] == [one.text for one in expected]


def test_rows_come_and_go_between_tokens() -> None:
    """Each begins when another has said a little, so that rows of every age share the cache, and the longest leaves."""
    who = served("engram")
    wanted = [asked(who, text, length) for text, length in zip(PROMPTS * 3, [200, 3, 60, 5] * 3, strict=True)]
    expected = [alone(who, one) for one in wanted]
    sizes: list[int] = []
    with batcher(who, most_streams=3) as works:
        whole = works._turn

        def turn(coming: list) -> None:
            whole(coming)
            sizes.extend(len(group.streams) for group in works._groups)

        works._turn = turn
        news: list[queue.Queue] = [queue.Queue() for _ in wanted]
        for one, place in zip(wanted, news, strict=True):
            works.ask(one, place.put)
        got = [heard(place)[1] for place in news]
    assert got == expected
    assert max(sizes) == 3


def test_the_cache_does_not_grow_with_those_who_left() -> None:
    who = served("engram")
    with batcher(who) as works:
        first, second = queue.Queue(), queue.Queue()
        works.ask(asked(who, PROMPTS[2] * 2, 4), first.put)
        works.ask(asked(who, "Hi", 400), second.put)
        heard(first)
        second.queue.clear()
        for _ in range(3):
            second.get(timeout=WAIT)
        places = works._groups[0].cache.get_seq_length()
        assert places < len(asked(who, PROMPTS[2] * 2, 4).ids)
        assert works._groups[0].cache.layers[-1].length <= works._groups[0].cache.get_seq_length() + 1


def test_one_that_is_given_up_is_dropped_and_the_others_go_on() -> None:
    who = served("engram")
    one, other = asked(who, PROMPTS[2], 1000), asked(who, "Hi", 60)
    with batcher(who) as works:
        first, second = queue.Queue(), queue.Queue()
        gone = works.ask(one, first.put)
        works.ask(other, second.put)
        first.get(timeout=WAIT)
        gone.give_up()
        assert heard(second)[1] == alone_later(who, other)
        while works._groups:
            pass
    assert all(isinstance(piece, str) for piece in list(first.queue))


def alone_later(who: Served, one: Asked) -> Generated:
    """As :func:`alone` on a model of its own, while the batcher has this one."""
    return alone(served(str(who.method)), one)


def test_an_error_ends_its_own_answer_only() -> None:
    who = served("engram")
    fine, broken = asked(who, "Hi", 40), replace(asked(who, "Hi", 40), ids=[10**6])
    with batcher(who) as works:
        first, second = queue.Queue(), queue.Queue()
        works.ask(fine, first.put)
        works.ask(broken, second.put)
        assert isinstance(heard(second)[1], IndexError)
        assert heard(first)[1] == alone_later(who, fine)


def test_a_stop_ends_an_answer_and_nothing_of_it_is_told() -> None:
    who = served("lora")
    whole = alone(who, asked(who, "Hi", 40)).text
    stop = whole[10:14]
    with batcher(who) as works:
        news: queue.Queue = queue.Queue()
        works.ask(asked(who, "Hi", 40, stops=("never said", stop)), news.put)
        pieces, last = heard(news)
    assert pieces == last.text == whole[: whole.find(stop)]
    assert last.ending == "stopped"


def test_drawn_answers_follow_their_seed_whoever_is_beside_them() -> None:
    who = served("lora")
    one = asked(who, "Hi", 20, drawing=Drawing(1.5, 0.9, seed=3))
    said = []
    with batcher(who) as works:
        for beside in range(3):
            news: queue.Queue = queue.Queue()
            for _ in range(beside):
                works.ask(asked(who, PROMPTS[2], 30, drawing=Drawing(2.0)), lambda _: None)
            works.ask(one, news.put)
            said.append(heard(news)[0])
        works.ask(replace(one, drawing=Drawing(1.5, 0.9, seed=4)), news.put)
        other = heard(news)[0]
    assert said[0] == said[1] == said[2] != other


def test_the_penalty_of_the_generation_config_is_kept_and_what_is_not_is_refused() -> None:
    who = served("lora")
    who.model.generation_config.repetition_penalty = 1.3
    one = asked(who, "Hi", 40)
    expected = alone(who, one)
    with batcher(who) as works:
        news: queue.Queue = queue.Queue()
        works.ask(one, news.put)
        assert heard(news)[1] == expected
    who.model.generation_config.min_length = 7
    with pytest.raises(ServingError, match=r"min_length=7.*Take it out of generation_config.json"):
        Batcher(who.model)


def test_no_more_wait_than_may() -> None:
    who = served("lora")
    with batcher(who, most_streams=1, most_waiting=2) as works:
        news: queue.Queue = queue.Queue()
        works.ask(asked(who, "Hi", 1000), news.put)
        news.get(timeout=WAIT)
        waiting = [works.ask(asked(who, "Hi", 5), lambda _: None) for _ in range(2)]
        with pytest.raises(BusyError, match="2 requests wait already"):
            works.ask(asked(who, "Hi", 5), lambda _: None)
        waiting[0].give_up()
        works.ask(asked(who, "Hi", 5), lambda _: None)


def test_the_end_is_told_to_all() -> None:
    who = served("lora")
    news = [queue.Queue(), queue.Queue()]
    with batcher(who, most_streams=1) as works:
        for place in news:
            works.ask(asked(who, "Hi", 1900), place.put)
        news[0].get(timeout=WAIT)
    assert all(isinstance(heard(place)[1], ServingError) for place in news)


def test_a_base_alone() -> None:
    base = spread_base()
    who = Served(base.model, base.tokenizer, "base")
    one = replace(asked(who, "Hi", 20), adapter=None)
    with batcher(who) as works:
        news: queue.Queue = queue.Queue()
        works.ask(one, news.put)
        last = heard(news)[1]
    assert last == generate(base.model, base.tokenizer, one.ids, ends=one.ends, max_new_tokens=20)
    assert not torch.is_inference_mode_enabled()
