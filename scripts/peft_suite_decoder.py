"""A decoder in a module of one's own, for PEFT's tests of custom models."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel


class Decoder(nn.Module):
    """A Llama of two blocks with a classifier on its last token; the tests put ``arange(90)`` in nine rows in."""

    def __init__(self) -> None:
        super().__init__()
        self.config = LlamaConfig(
            vocab_size=97,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.1,  # So that three steps of a test move the parameters of either adapter.
        )
        self.name_or_path = self.config._name_or_path = "Decoder"
        self.decoder = LlamaModel(self.config)
        self.classifier = nn.Linear(16, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Log probabilities ``(batch, 2)`` for token ids ``(batch, length)``."""
        hidden = self.decoder(input_ids=X.long(), use_cache=False).last_hidden_state[:, -1]
        return self.classifier(hidden).log_softmax(-1)
