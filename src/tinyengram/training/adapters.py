"""A saved adapter: what is said of its base beside it, and putting it on a base, or saying why it does not go there."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError, nearest
from tinyengram.files import write_atomically
from tinyengram.host import HostError, find_blocks, peft_methods, text_config, versions

if TYPE_CHECKING:
    from peft import PeftModel

_CONFIG, BASE_FILE = "adapter_config.json", "adapter_base.json"


def describe_base(model: Any) -> dict[str, Any]:
    """What is said of a base in ``adapter_base.json``: its name and sizes, and a digest of its weights.

    Args:
        model: Before any adapter is put on it.
    """
    from tinyengram.memory.base import describe_base as describe

    name = str(getattr(model, "name_or_path", "") or text_config(model).model_type)
    try:
        blocks = model.get_submodule(find_blocks(model)[1])
    except HostError:
        return {"name": name, "model_type": text_config(model).model_type}
    return {"name": name, **describe(model, blocks)}


def note_base(checkpoint: Path, base: dict[str, Any]) -> None:
    """Write down beside an adapter what it was trained on."""
    write_atomically(checkpoint / BASE_FILE, json.dumps(base, indent=2))


def load_adapter(model: Any, folder: Path) -> PeftModel:
    """Put a saved adapter on a base.

    Args:
        model: A base, which becomes a part of the result.
        folder: With ``adapter_config.json`` and the weights; ``adapter_base.json`` is looked at where there is one.

    Returns:
        The PEFT model in evaluation mode.

    Raises:
        TinyEngramError: There is no adapter, its method is unknown to the installed PEFT, or it was trained on another
            base.
    """
    import tinyengram.memory  # noqa: F401 - makes Engram known to PEFT

    config = _read(folder / _CONFIG)
    method, known = str(config.get("peft_type", "")).lower(), peft_methods()
    if method not in known:
        raise TinyEngramError(
            f"The adapter in {folder} is of the method {config.get('peft_type')!r}, which is unknown to {versions()}."
            f"{nearest(method, known)} Install the PEFT that saved it: {config.get('peft_version', 'it does not say')}."
        )
    if (folder / BASE_FILE).exists():
        _refuse_other_base(folder, _read(folder / BASE_FILE), describe_base(model))
    from peft import PeftModel

    from tinyengram.training.opened import open_by_its_rule

    name = getattr(model, "name_or_path", "") or type(model).__name__
    try:
        with warnings.catch_warnings():
            if config.get("opened_by"):  # Unknown to PEFT, which says so.
                warnings.filterwarnings("ignore", message=".*opened_by.*")
            loaded = PeftModel.from_pretrained(model, str(folder)).eval()
        open_by_its_rule(loaded, config.get("opened_by"))
        return loaded
    except Exception as error:
        said = " ".join(str(error).split())
        trained_on = config.get("base_model_name_or_path")
        raise TinyEngramError(
            f"The adapter in {folder} ({method}, trained on {trained_on!r}) cannot be put on {name!r}: {said[:300]} "
            "Load it on the base that it was trained on."
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise TinyEngramError(
            f"{file.parent} holds no adapter: {file.name} cannot be read ({error}). Name a folder that save_pretrained "
            "wrote, such as a checkpoint of a run."
        ) from error
    if not isinstance(content, dict):
        raise TinyEngramError(f"{file} holds no description of an adapter. Name a folder that save_pretrained wrote.")
    return content


def _refuse_other_base(folder: Path, stored: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse a base that differs in what is known of both; its name may be another, as after a move."""
    for part in sorted(stored.keys() & found.keys() - {"name"}):
        if stored[part] != found[part]:
            what = (
                "other weights" if part == "weights" else f"{part}={stored[part]!r}, and this one has {found[part]!r}"
            )
            raise TinyEngramError(
                f"The adapter in {folder} was trained on another base, {stored['name']!r}, with {what} (this one: "
                f"{found['name']!r}). Load it on the base that it was trained on."
            )
