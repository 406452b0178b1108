"""What a checkpoint is known by: a key over its weights and options, which names its files of scores."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tinyengram.errors import TinyEngramError
from tinyengram.files import sha256_of, write_atomically


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter rather than a whole model."""
    return (folder / "adapter_config.json").is_file()


def known_as(checkpoint: Path, out: Path) -> str:
    """The key of a checkpoint. Of those in a run folder it is noted beside them, so that scores outlive the weights.

    Args:
        checkpoint: Folder of an adapter, or of a whole model.
        out: Run folder; nothing is written elsewhere.

    Raises:
        TinyEngramError: The weights are gone, and no key was noted.
    """
    if not checkpoint.is_relative_to(out):
        return _key(checkpoint)
    noted = checkpoint.with_name(f"{checkpoint.name}.key")
    held = noted.read_text(encoding="utf-8").strip() if noted.is_file() else None
    if not has_weights(checkpoint):
        if held is None:
            raise gone(checkpoint, "nothing was measured of it")
        return held
    key = _key(checkpoint)
    if key != held:
        write_atomically(noted, key)
    return key


def has_weights(checkpoint: Path) -> bool:
    """Whether a folder holds weights."""
    return any(checkpoint.glob("*.safetensors"))


def gone(checkpoint: Path, lack: str) -> TinyEngramError:
    """What is said where a checkpoint's weights are needed and are not there."""
    return TinyEngramError(
        f"The weights in {checkpoint} are not there, and {lack}. Put them back, or delete {checkpoint.parent}: it is "
        "trained anew then."
    )


def _key(checkpoint: Path) -> str:
    """Identifies a model by what its files hold, in whatever order PEFT wrote its lists of modules."""
    config = "adapter_config.json" if is_adapter(checkpoint) else "config.json"
    said = json.loads((checkpoint / config).read_text())
    options = {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in said.items()}
    if is_adapter(checkpoint):
        held: object = sha256_of(checkpoint / "adapter_model.safetensors")
    else:
        held = [sha256_of(file) for file in sorted(checkpoint.glob("*.safetensors"))]
    return hashlib.sha256(json.dumps([held, options], sort_keys=True).encode()).hexdigest()[:16]
