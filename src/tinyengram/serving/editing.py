"""An adapter whose memory is edited by texts: what is taken back, what is near what it does not know, what is saved."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinyengram.errors import TinyEngramError
from tinyengram.files import copy_atomically
from tinyengram.memory.editing import Edit, Editor
from tinyengram.serving.model import TOKENIZER_CONFIG, Served, ServingError
from tinyengram.training.adapters import BASE_FILE

_NEAR = 3


@dataclass(frozen=True)
class Edited:
    """What was done.

    Attributes:
        sentence: In words.
        ngrams: Texts of the n-grams that an exact memory does not know any more.
        edit: In numbers; None of a merge.
    """

    sentence: str
    ngrams: list[str]
    edit: Edit | None


def take_back(served: Served, texts: Sequence[str], *, keep: bool = False) -> Edited:
    """Take back what a memory was taught of the n-grams in some texts; or with ``keep`` everything else.

    Args:
        served: From :func:`tinyengram.serving.load_served`; its memory is changed in place, its folder is not.
        texts: Each an n-gram, or a text of which every n-gram is meant.
        keep: Take back all but these.

    Raises:
        ServingError: The adapter has no memory, or knows nothing of a text.
        TinyEngramError: Nothing would be left.
    """
    editor = editor_of(served)
    rows: dict[int, torch.Tensor] = {}
    for text in texts:
        ids = served.tokenizer(text, add_special_tokens=False)["input_ids"]
        found = editor.rows_in(ids) if ids else {}
        if not any(len(of_layer) for of_layer in found.values()):
            raise ServingError(_unknown(editor, served.tokenizer, text))
        rows = {layer: torch.cat([rows.get(layer, of_layer), of_layer]).unique() for layer, of_layer in found.items()}
    edit = editor.keep_only(rows) if keep else editor.forget(rows)
    ngrams = _texts(editor, served.tokenizer, edit.ngrams)
    what = f"{len(ngrams)} n-grams, {edit.rows} rows" if editor.is_exact else f"{edit.rows} rows"
    sentence = f"Taken back: {what}; {edit.left} trained rows are left."
    if not editor.is_exact:
        sentence += " N-grams of a hashed memory share rows: others that hash alike are weakened by it."
    return Edited(sentence, ngrams, edit)


def merge(served: Served, other: Served) -> Edited:
    """Take the n-grams of another exact memory in, which must have the same projections.

    Raises:
        TinyEngramError: See :meth:`tinyengram.memory.editing.Editor.take_in`.
    """
    ours, theirs = editor_of(served), editor_of(other)
    if ours.is_exact and theirs.is_exact and (shared := ours.shared_with(theirs)):
        some = ", ".join(map(repr, _texts(theirs, other.tokenizer, shared[:_NEAR])))
        raise ServingError(
            f"{served.name} and {other.name} share {len(shared)} n-grams, such as {some}: which of their rows should "
            "hold? Take them back in one of the two (--forget), then merge."
        )
    count = ours.take_in(theirs)
    return Edited(f"Taken in: {count} n-grams of {other.name}.", [], None)


def editor_of(served: Served) -> Editor:
    """Edits the memory of what is served.

    Raises:
        ServingError: It has none.
    """
    if served.method != "engram":
        kind = f"its method is {served.method}" if served.method else "it is a model without an adapter"
        raise ServingError(f"{served.name} has no memory: {kind}. Only an Engram adapter's rows can be taken back.")
    return Editor(served.model)


def refuse_folder(out: Path) -> None:
    """Refuse to write over anything.

    Raises:
        TinyEngramError: There is something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TinyEngramError(f"--out {out} is there already. Name a new folder; nothing was changed.")


def keep_what_lies_beside(adapter: Path, served: Served, out: Path) -> None:
    """Give an edited adapter what the first one's folder holds: its own tokenizer, and what is said of its base."""
    if (adapter / TOKENIZER_CONFIG).is_file():
        served.tokenizer.save_pretrained(str(out))
    if (adapter / BASE_FILE).is_file():
        copy_atomically(adapter / BASE_FILE, out / BASE_FILE)


def _unknown(editor: Editor, tokenizer: Any, text: str) -> str:
    said = f"The memory knows no n-gram of {text!r}"
    if not editor.is_exact:
        return f"{said}: no row that it reads was trained."
    known = _texts(editor, tokenizer, editor.known())
    near = difflib.get_close_matches(text, known, n=_NEAR, cutoff=0.0)
    return f"{said}. Nearest known: {', '.join(map(repr, near))}."


def _texts(editor: Editor, tokenizer: Any, ngrams: Sequence[Sequence[int]]) -> list[str]:
    """N-grams of canonical ids as text, each token in its shortest spelling."""

    def decoded(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    shortest: dict[int, int] = {}
    for token in {token for ngram in ngrams for token in ngram}:
        shortest[token] = min(editor.spellings.get(token, [token]), key=lambda raw: len(decoded([raw])))
    return [decoded([shortest[token] for token in ngram]) for ngram in ngrams]
