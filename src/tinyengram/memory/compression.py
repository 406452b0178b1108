"""Token compression: a vocabulary mapped onto fewer ids, so that ``Apple``, ``apple`` and ``▁apple`` are one id."""

from __future__ import annotations

from typing import Any

import torch

_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
# Any private-use character would do; it protects a token that is one space from being stripped to nothing.
_LONE_SPACE = "\ue000"


def compress_vocabulary(tokenizer: Any) -> torch.Tensor:
    """Map each token id to a canonical id; tokens with the same normalised text share one.

    The normalised text is the decoded token after NFKC, NFD, accent stripping, lowercasing and white-space collapsing.
    A lone space stays a space, an empty result keeps the raw text, and bytes that do not decode keep the raw token.
    Canonical ids are numbered in order of first appearance (arXiv 2601.07372, section 2.2).

    Args:
        tokenizer: A Hugging Face tokenizer.

    Returns:
        int64 tensor of shape ``(len(tokenizer),)`` with values in ``0 … n_canonical - 1``.
    """
    from tokenizers import Regex, normalizers

    normalise = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
            normalizers.Replace(Regex(r"^ $"), _LONE_SPACE),
            normalizers.Strip(),
            normalizers.Replace(_LONE_SPACE, " "),
        ]
    ).normalize_str
    canonical: dict[str, int] = {}
    ids = []
    for token_id in range(len(tokenizer)):
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        if _UNDECODABLE in text:
            text = tokenizer.convert_ids_to_tokens(token_id)
        else:
            text = normalise(text) or text
        ids.append(canonical.setdefault(text, len(canonical)))
    return torch.tensor(ids, dtype=torch.int64)
