"""Tools that are offered in a conversation, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyengram.serving.model import ServingError
from tinyengram.tasks.formats import MalformedError
from tinyengram.tasks.formats.tools import offered_tools

_REMEDY = (
    'Give a list such as [{"name": "f", "description": "…", "parameters": {"type": "object", "properties": {}}}], or '
    "leave the tools out."
)


def load_tools(file: str | Path) -> tuple[dict[str, Any], ...]:
    """Function descriptions from a JSON file, as conversations hold them.

    Args:
        file: A list of descriptions, each bare (``{"name", "description", "parameters"}``) or in OpenAI's form
            (``{"type": "function", "function": …}``); or one of them alone.

    Raises:
        ServingError: The file cannot be read, is no JSON, describes no tool, or one that is no function.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ServingError(f"The tools file {file} cannot be read: {reason}. {_REMEDY}") from error
    if not text.strip():
        raise ServingError(f"The tools file {file} is empty. {_REMEDY}")
    try:
        tools = offered_tools(text, str(file))
    except MalformedError as error:
        raise ServingError(f"{error}. {_REMEDY}") from error
    if not tools:
        raise ServingError(f"The tools file {file} offers no tool: it holds {text.strip()[:20]}. {_REMEDY}")
    return tools
