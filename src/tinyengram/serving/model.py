"""What is served: a base with an adapter on it, or a model as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinyengram.errors import TinyEngramError, nearest
from tinyengram.host import peft_methods
from tinyengram.serving.generation import can_use_cache
from tinyengram.sources import Base, SourceError, load_base, load_tokenizer

_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZER_CONFIG = "tokenizer_config.json"
_SHOWN = 250  # characters of somebody else's message


class ServingError(TinyEngramError):
    """A model cannot be served, or cannot answer what it is asked."""


@dataclass(frozen=True)
class Served:
    """A model in evaluation mode with the tokenizer that it is spoken to with.

    Attributes:
        model: A causal language model; a ``PeftModel`` where there is an adapter.
        tokenizer: The adapter folder's where it holds one (TRL saves it with its chat template), else the base's.
        name: What was opened.
        base: Name of the base under an adapter; None without one.
        method: PEFT's name of the adapter's method; None without one.
        use_cache: Whether it can be generated from with a cache; without one an answer takes much longer.
    """

    model: Any
    tokenizer: Any
    name: str
    base: str | None = None
    method: str | None = None
    use_cache: bool = True

    @property
    def context(self) -> int | None:
        """Tokens that prompt and answer may have together; None where the model states no limit.

        Virtual tokens, which methods of prompt tuning put before a text, take places as others do.
        """
        from tinyengram import host

        places = getattr(host.text_config(self.model), "max_position_embeddings", None)
        if places is None:
            return None
        adapter = getattr(self.model, "active_peft_config", None)
        return places - (getattr(adapter, "num_virtual_tokens", None) or 0)


def load_served(name: str, *, base: str | None = None) -> Served:
    """Load what is to answer, onto this process's accelerator if there is one.

    Args:
        name: A folder with ``adapter_config.json`` (any PEFT method), or a model as ``load_base`` takes it.
        base: The base to put an adapter on, instead of the one that its ``adapter_config.json`` names.

    Raises:
        ServingError: The adapter cannot be read, names no base, or does not fit its base; or ``base`` is given for a
            name that is no adapter's.
        SourceError: The model or the base cannot be had.
    """
    folder = Path(name)
    if (folder / _ADAPTER_CONFIG).is_file():
        return _with_adapter(folder, base)
    if base is not None:
        raise ServingError(
            f"--base {base} is for an adapter, but {name!r} is no folder with {_ADAPTER_CONFIG}. Name such a folder, "
            "or leave --base out."
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ServingError(
            f"The folder {name} holds neither {_ADAPTER_CONFIG} nor config.json. Name the folder that save_pretrained "
            "wrote, such as jobs/<job>/checkpoint-<step> of a run."
        )
    loaded = _load(name)
    return Served(loaded.model, loaded.tokenizer, name)


def _with_adapter(folder: Path, base: str | None) -> Served:
    import peft

    import tinyengram.memory  # noqa: F401 - makes Engram known to PEFT

    said = _adapter_config(folder)
    method = _method(folder, said)
    name = base or said.get("base_model_name_or_path")
    if not name:
        raise ServingError(f"{folder / _ADAPTER_CONFIG} names no base (base_model_name_or_path). Name it by --base.")
    try:
        loaded = _load(name)
    except SourceError as error:
        raise SourceError(
            f"The base of the adapter {folder} is not at hand; name another by --base. {error}"
        ) from error
    try:
        model: Any = peft.PeftModel.from_pretrained(loaded.model, str(folder))
    except Exception as error:  # PEFT checks little: a file that does not fit may raise anything.
        raise _does_not_fit(folder, name, error) from error
    tokenizer = _tokenizer(folder, model, name) or loaded.tokenizer
    use_cache = True
    if model.eval().active_peft_config.is_prompt_learning:
        try:
            use_cache = can_use_cache(model, tokenizer("Hello there.", add_special_tokens=False)["input_ids"])
        except (ValueError, TypeError, RuntimeError) as error:
            raise ServingError(
                f"The adapter {folder} ({method}) cannot be generated from: {_in_short(error)}. Use versions of PEFT "
                "and transformers that can, or a method that changes weights."
            ) from error
    return Served(model, tokenizer, str(folder), name, method, use_cache)


def add_adapter(served: Served, name: str, *, adapter: str, base: str | None = None) -> Served:
    """Put a further adapter on the base of one that is served; the model is theirs together.

    Args:
        served: An adapter that was loaded; it stays the active one.
        name: Folder of the further one, of the same method.
        adapter: What PEFT shall call it.
        base: As it was given for ``served``.

    Raises:
        ServingError: It is none, of another method or of another base, or does not fit it.
    """
    folder = Path(name)
    if served.base is None or not (folder / _ADAPTER_CONFIG).is_file():
        lacking = served.name if served.base is None else name
        raise ServingError(
            f"{lacking} is no folder with {_ADAPTER_CONFIG}, and beside others only adapters are served. Name it alone."
        )
    said = _adapter_config(folder)
    if (method := _method(folder, said)) != served.method:
        raise ServingError(
            f"The adapters {served.name} ({served.method}) and {folder} ({method}) are of two methods, which PEFT does "
            "not put on one base. Serve the second by a command of its own, on another port."
        )
    own = base or said.get("base_model_name_or_path")
    if own != served.base:
        raise ServingError(
            f"The adapters {served.name} and {folder} name two bases, {served.base!r} and {own!r}. If they are the "
            "same, name it by --base; else serve the second by a command of its own, on another port."
        )
    try:
        served.model.load_adapter(str(folder), adapter_name=adapter)
    except Exception as error:  # As above.
        raise _does_not_fit(folder, served.base, error) from error
    tokenizer = _tokenizer(folder, served.model, served.base) or load_tokenizer(served.base)
    served.model.eval()
    return replace(served, name=name, tokenizer=tokenizer)


def _method(folder: Path, said: dict[str, Any]) -> str:
    """PEFT's name of the method of an adapter whose weights are there."""
    method = str(said.get("peft_type", "")).lower()
    if method not in peft_methods():
        raise ServingError(
            f"The method {method!r} of {folder / _ADAPTER_CONFIG} is unknown.{nearest(method, peft_methods())}"
        )
    if not any((folder / weights).is_file() for weights in _ADAPTER_WEIGHTS):
        raise ServingError(f"The adapter {folder} has no weights ({_ADAPTER_WEIGHTS[0]}). Fetch or save it again.")
    return method


def _does_not_fit(folder: Path, base: str, error: Exception) -> ServingError:
    return ServingError(
        f"The adapter {folder} cannot be put on the base {base!r}: {_in_short(error)}. Name the base that it was "
        "trained on by --base, or fetch the adapter again."
    )


def _tokenizer(folder: Path, model: Any, base: str) -> Any:
    """The tokenizer in an adapter's folder; None where there is none."""
    if not (folder / TOKENIZER_CONFIG).is_file():
        return None
    tokenizer = load_tokenizer(str(folder))
    if len(tokenizer) > (rows := model.get_input_embeddings().weight.shape[0]):
        raise ServingError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, but the base {base!r} only {rows}. Save the base "
            "with its resized embedding and name it by --base, or take the tokenizer out of the folder."
        )
    return tokenizer


def _adapter_config(folder: Path) -> dict[str, Any]:
    file = folder / _ADAPTER_CONFIG
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ServingError(f"{file} cannot be read: {error}. Fetch or save the adapter again.") from error
    if not isinstance(said, dict):
        raise ServingError(f"{file} is no JSON object. Fetch or save the adapter again.")
    return said


def _in_short(error: Exception) -> str:
    """An error's message on one line, shortened; its type where it says nothing but a word."""
    text = " ".join(str(error).split()).rstrip(".")
    text = text if " " in text else f"{type(error).__name__}: {text}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _load(name: str) -> Base:
    from tinyengram.hardware import device

    where = device()
    # As studies measure it on a CPU, where bfloat16 is slow; elsewhere as it was saved, which takes half the memory.
    base = load_base(name, dtype="float32" if where.type == "cpu" else "auto")
    base.model.to(where)
    return base
