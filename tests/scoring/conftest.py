"""What the tests of scoring share."""

from __future__ import annotations

import pytest
import torch

from tinyengram.sources import Base, load_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A tiny random base whose predictions are spread, so that scores differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYENGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = load_base("tiny-random-llama")
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "norm" not in name:
                parameter.mul_(8)
    return made
