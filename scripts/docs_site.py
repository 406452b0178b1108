"""What the site needs beyond docs/: files elsewhere in the repository that a page links, and a first page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
_OUTSIDE = re.compile(r"\]\(((?:\.\./)+)(examples/|studies/|src/)([^)#]+)\)")
_ROLE = re.compile(r":(?:func|mod|class|meth|attr|data|exc):(?=<code>)")  # Sphinx's, in docstrings: Markdown shows them
_FIRST = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>tinyengram</title>'
    '<meta http-equiv="refresh" content="0; url=own-model/"><a href="own-model/">tinyengram</a>'
)


def on_files(files: Any, config: Any) -> Any:
    for page in sorted(Path(config["docs_dir"]).rglob("*.md")):
        for _, folder, name in _OUTSIDE.findall(page.read_text(encoding="utf-8")):
            uri = f"repository/{folder}{name}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / folder / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    up = "../" * page.file.src_uri.count("/")
    return _OUTSIDE.sub(lambda link: f"]({up}repository/{link[2]}{link[3]})", markdown)


def on_page_content(html: str, **_: Any) -> str:
    return _ROLE.sub("", html)


def on_post_build(config: Any) -> None:
    (Path(config["site_dir"]) / "index.html").write_text(_FIRST, encoding="utf-8")
