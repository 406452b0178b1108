"""Who can be asked: adapters on one base, each under a name of its own, and the base itself."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyengram import host
from tinyengram.serving.model import Served, ServingError, add_adapter, load_served
from tinyengram.sources import load_tokenizer
from tinyengram.tasks.rendering import Renderer, Template

_FIRST = "default"  # PEFT's name of the adapter that a model was loaded with


@dataclass(frozen=True)
class Speaker:
    """One that answers.

    Attributes:
        id: What requests call it; no path.
        served: Its model, which is the others' too, and its tokenizer.
        adapter: PEFT's name of its adapter; None: the base.
        context: Tokens that prompt and answer may have together; None where the model states no limit.
        renderer: Writes its prompts.
        decoder: A tokenizer of its own for the thread that generates.
    """

    id: str
    served: Served
    adapter: str | None
    context: int | None
    renderer: Renderer
    decoder: Any


def load_speakers(
    names: Sequence[str], *, base: str | None = None, template: Template = "tokenizer"
) -> dict[str, Speaker]:
    """Load adapters of one method onto one base, or a model without any.

    Args:
        names: Folders of adapters, each ``FOLDER`` or ``NAME=FOLDER``; requests call one by NAME, or by the folder's
            own. Or one model as ``load_base`` takes it.
        base: The base to put them on, instead of the one that they name.
        template: See :class:`tinyengram.tasks.rendering.Renderer`.

    Returns:
        Speakers by their ids; the base is the last. It is left out where an adapter changes the base's own weights.

    Raises:
        ServingError: One cannot be loaded, two are called alike, or they do not go together.
        SourceError: The model or the base cannot be had.
        TaskError: A tokenizer has no chat template.
    """
    named = [_named(name) for name in names]
    ids = [id for id, _ in named]
    for id in ids:
        if ids.count(id) > 1:
            raise ServingError(f"Two adapters are called {id!r}. Give each a name of its own: NAME=FOLDER.")
    (first_id, first_folder), *others = named
    first = load_served(first_folder, base=base)
    served: list[tuple[str, Served, str | None]] = [(first_id, first, _FIRST if first.base else None)]
    for number, (id, folder) in enumerate(others, start=1):
        served.append((id, add_adapter(first, folder, adapter=f"{_FIRST}_{number}", base=base), f"{_FIRST}_{number}"))
    if first.base is not None and host.base_is_below(first.model):
        base_id = _id_of(first.base)
        if base_id in ids:
            raise ServingError(f"An adapter is called {base_id!r}, as its base is. Name it otherwise: NAME=FOLDER.")
        # As a model of its own only for what is asked of it here: its context.
        served.append((base_id, Served(first.model.get_base_model(), load_tokenizer(first.base), base_id), None))
    speakers = {}
    for id, one, adapter in served:
        if adapter is not None:
            one.model.set_adapter(adapter)
        renderer = Renderer(one.tokenizer, template=template)
        speakers[id] = Speaker(id, one, adapter, one.context, renderer, deepcopy(one.tokenizer))
    if first.base is not None:
        first.model.set_adapter(_FIRST)
    return speakers


def _named(written: str) -> tuple[str, str]:
    """Id and folder."""
    id, equals, folder = written.partition("=")
    if not equals or Path(written).exists():
        return _id_of(written), written
    if not id.strip() or not folder:
        raise ServingError(f"{written!r} names no adapter. Write FOLDER, or NAME=FOLDER.")
    return id.strip(), folder


def _id_of(name: str) -> str:
    """What a model is called: a folder's own name, and a model's as it is."""
    return Path(name).resolve().name if Path(name).is_dir() else name
