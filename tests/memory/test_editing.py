"""What is taken back is gone, to the bit where only it spoke, and what is left says what it said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.memory.tiny import logits_of, some_ids, stir, tiny_config, tiny_model
from tinyengram import collect_ngrams
from tinyengram.errors import TinyEngramError
from tinyengram.memory.editing import Editor

ONE, OTHER = some_ids(2, 12, seed=9)
BOTH = [ONE.tolist(), OTHER.tolist()]


def memory(kind: str, **options: Any) -> Any:
    if kind == "exact":
        options |= {"memory": "exact", "ngrams": collect_ngrams(BOTH, orders=(2, 3))}
    else:
        options["engram_vocab_size"] = [3000, 3000]
    model = get_peft_model(tiny_model(), tiny_config(**options))
    stir(model)
    if kind == "hashed":  # Taught are these two texts alone.
        rows = Editor(model)
        for layer, of_memory in rows._memories.items():
            taught = torch.cat([rows.rows_in(ids)[layer] for ids in BOTH])
            with torch.no_grad():
                held = of_memory.tables.weight[taught].clone()
                of_memory.tables.weight.zero_()
                of_memory.tables.weight[taught] = held
    return model.eval()


def base_logits(ids: torch.Tensor) -> torch.Tensor:
    return logits_of(tiny_model(), ids[None])


def loaded(model: Any, folder: Path) -> PeftModel:
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(tiny_model(), str(folder)).eval()


@pytest.mark.parametrize("kind", ["hashed", "exact"])
@pytest.mark.parametrize("kernel_size", [0, 4])
def test_where_only_it_spoke_the_base_is_back(kind: str, kernel_size: int, tmp_path: Path) -> None:
    model = memory(kind, kernel_size=kernel_size)
    before = {number: logits_of(model, ids[None]) for number, ids in enumerate((ONE, OTHER))}
    assert not torch.equal(before[0], base_logits(ONE))
    editor = Editor(model)
    edit = editor.forget(editor.rows_in(ONE.tolist()))
    assert edit.rows > 0
    # Behind something else: n-grams that reach back to before a text do not lie in it.
    context = torch.cat([some_ids(1, 3, seed=77), ONE[None]], dim=1)
    for one in (model, loaded(model, tmp_path / "edited")):
        assert torch.equal(logits_of(one, context), logits_of(tiny_model(), context))
        assert torch.equal(logits_of(one, OTHER[None]), before[1]), "what was not named is as it was"


def test_a_hashed_memory_of_one_text_that_is_forgotten_is_the_base() -> None:
    model = memory("hashed")
    editor = Editor(model)
    editor.forget(editor.rows_in(ONE.tolist()))
    assert torch.equal(logits_of(model, ONE[None]), base_logits(ONE))


def test_only_what_is_kept_speaks(tmp_path: Path) -> None:
    for kind in ("hashed", "exact"):
        model = memory(kind, kernel_size=0)
        before = logits_of(model, OTHER[None])
        editor = Editor(model)
        edit = editor.keep_only(editor.rows_in(OTHER.tolist()))
        assert edit.left > 0
        again = loaded(model, tmp_path / kind)
        assert torch.equal(logits_of(again, ONE[None])[:, 2:], base_logits(ONE)[:, 2:])
        assert (logits_of(again, OTHER[None]) - before).abs().max() < 20
        assert not torch.equal(logits_of(again, OTHER[None]), base_logits(OTHER))


def test_what_an_exact_memory_forgot_is_not_in_its_file(tmp_path: Path) -> None:
    model = memory("exact")
    editor = Editor(model)
    known = editor.known()
    edit = editor.forget(editor.rows_in(ONE[3:6].tolist()))
    assert sorted(edit.ngrams) == sorted([ONE[3:5].tolist(), ONE[4:6].tolist(), ONE[3:6].tolist()])
    left = Editor(loaded(model, tmp_path)).known()
    assert sorted(left) == sorted(ngram for ngram in known if ngram not in edit.ngrams)


def test_two_parts_of_a_memory_make_it_whole_again(tmp_path: Path) -> None:
    whole = memory("exact", kernel_size=0)
    parts = []
    for ids in (ONE, OTHER):
        part = memory("exact", kernel_size=0)
        editor = Editor(part)
        editor.keep_only(editor.rows_in(ids.tolist()))
        parts.append(part)
    taken = Editor(parts[0]).take_in(Editor(parts[1]))
    assert taken == len(Editor(parts[1]).known())
    merged = loaded(parts[0], tmp_path)
    for ids in (ONE, OTHER):
        # But for those at the beginning, which lie in neither text.
        context = torch.cat([some_ids(1, 2, seed=5), ids[None]], dim=1)
        torch.testing.assert_close(logits_of(merged, context), logits_of(whole, context), atol=1e-4, rtol=1e-4)


def test_memories_that_cannot_be_one_are_refused() -> None:
    model = memory("exact")
    with pytest.raises(TinyEngramError, match=r"share \d+ n-grams, such as \[\["):
        Editor(model).take_in(Editor(memory("exact")))
    other = memory("exact")
    editor = Editor(other)
    editor.keep_only(editor.rows_in(OTHER.tolist()))
    with torch.no_grad():
        next(p for n, p in other.named_parameters() if n.endswith("value_proj.weight")).add_(1)
    mine = Editor(model)
    mine.forget(mine.rows_in(OTHER.tolist()))
    with pytest.raises(TinyEngramError, match=r"differ in block 1, value_proj.weight.*load both instead"):
        mine.take_in(editor)
    with pytest.raises(TinyEngramError, match="Only exact memories"):
        Editor(memory("hashed")).take_in(mine)
    with pytest.raises(TinyEngramError, match="Nothing would be left"):
        mine.keep_only({layer: torch.zeros(0, dtype=torch.int64) for layer in (1, 2)})
    lora = get_peft_model(tiny_model(), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    with pytest.raises(TinyEngramError, match="has no memory"):
        Editor(lora)
