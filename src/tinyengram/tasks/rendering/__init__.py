"""Conversations become text and token ids: what is trained is what is served."""

from tinyengram.tasks.rendering.encoding import EncodedData, EncodedExample, Encoder, encode_all, marked_text
from tinyengram.tasks.rendering.renderer import Renderer, Template, known_template
from tinyengram.tasks.rendering.writers import RefusedTurn, RenderedTurn

__all__ = [
    "EncodedData",
    "EncodedExample",
    "Encoder",
    "RefusedTurn",
    "RenderedTurn",
    "Renderer",
    "Template",
    "encode_all",
    "known_template",
    "marked_text",
]
