"""An explained text in a terminal and as a page: each token coloured by how far the memory moved it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from tinyengram.report.texts import shown

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from tinyengram.serving.explaining import Explained, Memory, Step

LIMITS = (0.01, 0.1, 1.0)
"""Nats from which on a token is coloured, by a step."""
_STYLES = ("", "black on #cfe3ff", "black on #8cbcff", "black on #ffb26b")
_MOST_ROWS = 15
_LONGEST = 60


def strength_of(step: Step) -> int:
    """0 (not moved, or hardly) to 3."""
    return sum((step.moved or 0.0) >= limit for limit in LIMITS)


def moved_most(explained: Explained) -> list[Step]:
    """The steps that moved most, of those that moved at all, in the order of the text."""
    moved = [step for step in explained.steps if step.moved]
    most = sorted(moved, key=lambda step: -(step.moved or 0.0))[:_MOST_ROWS]
    return [step for step in moved if any(step is one for one in most)]


def in_words(explained: Explained) -> str:
    """What a memory did to a text, in a few sentences."""
    said = f"{_word(explained.adapter)}: {explained.memory} memory on {_word(explained.base)}. "
    expected = [step for step in explained.steps if step.moved is not None]
    moved = [step for step in expected if step.moved]
    if explained.is_shut:
        return said + "Its latch was shut at every token: the text is the base's, to the bit."
    if not moved:
        return said + "It moved no token: the text is the base's, to the bit."
    strongest = max(moved, key=lambda step: step.moved or 0.0)
    what = f"“{_word(strongest.text)}”" if strongest.probability is not None else "what would come next"
    together = sum(step.moved or 0.0 for step in moved)
    return said + (
        f"It moved {len(moved)} of {len(expected)} tokens, by {together:.2f} nats together; most {what}, by "
        f"{strongest.moved:.2f}."
    )


def read_in_words(memories: list[Memory]) -> str:
    """What was read before a token, shortest n-gram first, and the gates that it met, block by block."""
    spoke = [memory for memory in memories if any(ngram.trained for ngram in memory.ngrams)]
    if not spoke:
        return "shut" if memories and not any(memory.is_open for memory in memories) else "nothing"
    texts: dict[str, str] = {}
    for memory in spoke:
        for ngram in (one for one in memory.ngrams if one.trained):
            shared = "" if len(ngram.rows) == 1 else f" ({ngram.trained} of {len(ngram.rows)} rows)"
            texts.setdefault(_word(ngram.text), shared)
    several = "s" if len(spoke) > 1 else ""
    blocks = ", ".join(str(memory.layer) for memory in spoke)
    gates = " ".join(f"{memory.gate:.2f}" for memory in spoke)
    read = ", ".join(f"“{text}”{shared}" for text, shared in texts.items())
    return f"{read}: gate{several} {gates} (block{several} {blocks})"


def coloured(explained: Explained) -> Text:
    """The text for a terminal."""
    from rich.text import Text

    text = Text()
    for step in explained.steps:
        text.append(shown(step.text, 10_000).text, style=_STYLES[strength_of(step)])
    return text


def moved_table(explained: Explained) -> Table:
    """The tokens that moved most, for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("Token", "Moved, nats", "With the memory", "The base", "Read before it", title="What moved most")
    for step in moved_most(explained):
        table.add_row(*(escape(cell) for cell in cells(step)))
    return table


def cells(step: Step) -> tuple[str, str, str, str, str]:
    """A row of the table: the token, how far it moved, what was expected with the memory and without, what was read."""
    sides = []
    for own, likeliest in ((step.probability, step.likeliest), (step.of_base, step.likeliest_of_base)):
        assert likeliest is not None
        instead = "" if likeliest.text == step.text else f"“{_word(likeliest.text)}” {likeliest.probability:.0%}"
        sides.append(", ".join(filter(None, ["" if own is None else f"{own:.0%}", instead])))
    name = "(next)" if step.probability is None else _word(step.text) or "…"
    return name, f"{step.moved:.3f}", sides[0], sides[1], read_in_words(step.memories)


def _word(text: str) -> str:
    """A token or n-gram on one line."""
    return str(shown(text.replace("\n", "⏎").replace("\t", "⇥"), _LONGEST))


def render_explained(explained: Explained) -> str:
    """One page that works alone and without a script; everything shown is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from tinyengram.report.page import stylesheet

    environment = Environment(
        loader=PackageLoader("tinyengram", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("explained.html").render(
        explained=explained,
        word=_word,
        sentence=in_words(explained),
        tokens=[(shown(step.text, 10_000).text, strength_of(step), step) for step in explained.steps if step.text],
        rows=[(cells(step), step) for step in moved_most(explained)],
        limits=LIMITS,
        css=Markup(stylesheet("explained.css")),
    )
