"""A model that answers: a conversation with it, with tools. Knows nothing of studies."""

from __future__ import annotations

from tinyengram.serving.conversation import Answer, Talk
from tinyengram.serving.generation import Generated, generate
from tinyengram.serving.model import Served, ServingError, load_served
from tinyengram.serving.tools import load_tools

__all__ = ["Answer", "Generated", "Served", "ServingError", "Talk", "generate", "load_served", "load_tools"]
