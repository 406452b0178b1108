"""Where bytes come from: an embedded package, a local file or the Hub; fetched once, verified, cached."""

from __future__ import annotations

from tinyengram.sources.models import Base, load_base, load_config, load_model, load_tokenizer
from tinyengram.sources.provenance import Provenance, SourceError, cache_dir
from tinyengram.sources.rows import BadRow, Row, RowSource, resolve_rows

__all__ = [
    "BadRow",
    "Base",
    "Provenance",
    "Row",
    "RowSource",
    "SourceError",
    "cache_dir",
    "load_base",
    "load_config",
    "load_model",
    "load_tokenizer",
    "resolve_rows",
]
