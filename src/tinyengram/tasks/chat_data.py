"""Conversations to learn from files, the Hub and BFCL, with an account of every row, turn and call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import get_args

from tinyengram.errors import nearest
from tinyengram.sources import BadRow, Provenance, Row, RowSource, resolve_rows
from tinyengram.tasks.accounts import Account, ChatData
from tinyengram.tasks.conversations import Conversation, Learn
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.formats import (
    READERS,
    LeftOutError,
    MalformedError,
    bfcl,
    detect,
    formats_of,
    glaive_experiment,
    known_format,
)

__all__ = [
    "ChatData",
    "ConversationStream",
    "Split",
    "held_out_by_default",
    "load_conversations",
    "load_irrelevant",
    "remark_on_split",
    "split",
    "stream_conversations",
]

_LEARN = get_args(Learn)
_EXPERIMENT = "glaive-experiment"
_LOOKED_AT = 200  # rows that tell the format
_LOOKED_AT_PER_FILE = 20  # at least, in a folder of many
_SHOWN_BAD_ROWS = 5
_FURTHER = 1000  # rows that are read on for more bad ones to show, so that not each needs a run of its own
_ENOUGH_HELD_OUT = 20
_FEW_HELD_OUT = 5


@dataclass(frozen=True)
class Split:
    """Conversations to train on and to hold out, disjoint; ``remark`` says when too few are held out to measure by."""

    train: list[Conversation]
    held_out: list[Conversation]
    remark: str | None = None


@dataclass
class ConversationStream:
    """Conversations that are read one at a time; the account is whole once the last of them was read.

    Attributes:
        account: What became of each row so far.
        provenance: Where the rows come from.
        conversations: Each with at least one turn that is learnt. Can be gone through once.
    """

    account: Account
    provenance: Provenance
    conversations: Iterator[Conversation]


def load_conversations(
    name: str,
    *,
    format: str = "auto",
    learn: Learn = "all",
    max_bad_rows: int = 0,
    revision: str | None = None,
) -> ChatData:
    """Load conversations in any of the known formats.

    Malformed rows (no valid JSON, another shape, arguments that are no object) are refused beyond ``max_bad_rows``.
    Well-formed rows with nothing to learn (no assistant turn, no calls under ``learn="calls"``) are counted only, and
    so are turns that say and call nothing.

    Args:
        name: ``bfcl`` (embedded), a Hub id such as Glaive's, or a local json, jsonl or parquet file or folder.
        format: One of ``FORMATS``; ``auto`` tells it by the first rows of each file. ``messages`` is ``openai``.
        learn: ``all`` assistant turns, those that make ``calls``, or the ``last``.
        max_bad_rows: Malformed rows that are put up with.
        revision: Of a Hub data set.

    Raises:
        TaskError: The format is unknown, unclear or mixed; more rows are malformed than allowed; nothing is left.
        SourceError: The data cannot be had.
    """
    stream = stream_conversations(name, format=format, learn=learn, max_bad_rows=max_bad_rows, revision=revision)
    conversations = list(stream.conversations)
    return stream.account.data(conversations, stream.provenance)


def stream_conversations(
    name: str,
    *,
    format: str = "auto",
    learn: Learn = "all",
    max_bad_rows: int = 0,
    revision: str | None = None,
) -> ConversationStream:
    """The same without holding them, for files larger than memory; errors of rows are raised where they are met."""
    format = known_format(format)
    if learn not in _LEARN:
        raise TaskError(f"learn={learn!r} is unknown.{nearest(learn, _LEARN)}")
    if bfcl.BFCL in (name, format):
        if name != bfcl.BFCL or format not in ("auto", bfcl.BFCL):
            raise TaskError(
                f"name={name!r} with format={format!r} does not fit: bfcl is the embedded data and its own format. "
                "Name both bfcl, or another format."
            )
        account = Account(bfcl.BFCL, learn)
        return ConversationStream(account, bfcl.provenance(), _not_none(_learnt_of_bfcl(account), account, name))
    source = resolve_rows(name, revision=revision)
    format, rows = _with_format(source, format, max_bad_rows)
    account = Account(format, learn)
    read = _read(rows, account, source.provenance.name, max_bad_rows)
    return ConversationStream(account, source.provenance, _not_none(read, account, source.provenance.name))


def _learnt_of_bfcl(account: Account) -> Iterator[Conversation | None]:
    for conversation in bfcl.read_calls():
        account.rows += 1
        yield account.add(conversation)


def _not_none(read: Iterator[Conversation | None], account: Account, name: str) -> Iterator[Conversation]:
    """What is learnt of what was read.

    Raises:
        TaskError: At the end, if it is nothing.
    """
    yield from (conversation for conversation in read if conversation is not None)
    if not account.conversations:
        reasons = [f"{part.count} rows: {part.reason}" for part in account.left_out() if part.what == "rows"]
        raise TaskError(f"Nothing to learn is left of {name!r} ({'; '.join(reasons) or 'it has no rows'}).")


def load_irrelevant(limit: int | None = None) -> list[Conversation]:
    """BFCL's requests that none of the offered tools fits: they end where the right thing would be said."""
    return bfcl.read_irrelevant()[:limit]


def split(
    conversations: Sequence[Conversation],
    *,
    seed: int = 42,
    eval_fraction: float | None = None,
    eval_limit: int | None = None,
) -> Split:
    """Hold conversations out, after a shuffle, each with ``seed`` and by the numbers that ``datasets`` would use.

    Args:
        conversations: All of them.
        seed: Of the shuffle and of the split.
        eval_fraction: Share that is held out. ``None``: one in five until twenty are held out, and from 2,000
            conversations on one in a hundred.
        eval_limit: Most that are held out; the rest of them is not used at all. ``None``: no limit.

    Raises:
        TaskError: The fraction is not between 0 and 1, or a side is empty.
    """
    from datasets import Dataset

    count = len(conversations)
    if eval_fraction is not None and not 0 < eval_fraction < 1:
        raise TaskError(f"eval_fraction={eval_fraction} must lie between 0 and 1.")
    by_default = held_out_by_default(count)
    train: list[int] = []
    held_out: list[int] = []
    if count > 1:
        order = Dataset.from_dict({"row": list(range(count))}).shuffle(seed=seed)
        try:
            parts = order.train_test_split(test_size=by_default if eval_fraction is None else eval_fraction, seed=seed)
        except ValueError:
            pass  # one side would be empty
        else:
            train, held_out = list(parts["train"]["row"]), list(parts["test"]["row"])[:eval_limit]
    if not train or not held_out:
        raise TaskError(
            f"A split of {count} conversations with eval_fraction={eval_fraction} and eval_limit={eval_limit} leaves "
            "nothing on one side. Give more conversations, or another fraction."
        )
    remark = remark_on_split(len(held_out), count)
    return Split([conversations[row] for row in train], [conversations[row] for row in held_out], remark)


def held_out_by_default(count: int) -> int:
    """How many of so many conversations are held out where nothing else is said."""
    return max(1, -(-count // 100), min(_ENOUGH_HELD_OUT, count // 5))


def remark_on_split(held_out: int, count: int) -> str | None:
    """A sentence where so few of so many are held out that nothing can be measured by them."""
    if held_out >= _FEW_HELD_OUT:
        return None
    by_default = held_out_by_default(count)
    more = f" Without eval_fraction {by_default} are held out." if by_default > held_out else ""
    return f"Only {held_out} of {count} conversations are held out, too few to measure by.{more}"


# --- rows ----------------------------------------------------------------------------------------------------------


def _with_format(source: RowSource, format: str, max_bad_rows: int) -> tuple[str, Iterable[Row | BadRow]]:
    """The format, told by the first rows of each file where it is not given, and all rows."""
    if format != "auto":
        return format, source
    name, parts = source.provenance.name, source.parts()
    if len(parts) == 1:  # as the Hub's data sets are: their first rows are not fetched twice
        rows = iter(parts[0])
        begins = list(islice(rows, _LOOKED_AT + max_bad_rows))
        everything: Iterable[Row | BadRow] = chain(begins, rows)
    else:
        each = max(_LOOKED_AT_PER_FILE, _LOOKED_AT // len(parts))
        begins = [row for part in parts for row in islice(part, each + max_bad_rows)]
        everything = source
    good = [row for row in begins if isinstance(row, Row)]
    if good:
        return detect(good, name), everything
    list(_read(begins, Account("auto", "all"), name, max_bad_rows))  # raises where the bad rows are too many
    raise TaskError(f"Nothing to learn is left of {name!r}: it has no rows{' but malformed ones' * bool(begins)}.")


def _read(
    rows: Iterable[Row | BadRow], account: Account, name: str, max_bad_rows: int
) -> Iterator[Conversation | None]:
    bad: list[str] = []
    stop_at: int | None = None
    for row in rows:
        account.rows += 1
        try:
            yield _add(row, account)
        except MalformedError as error:
            bad.append(f"{row.location}: {error}")
            account.leave_out("rows", str(error), row.location)
            if len(bad) > max_bad_rows and stop_at is None:
                stop_at = account.rows + _FURTHER
        if stop_at is not None and (len(bad) >= _SHOWN_BAD_ROWS or account.rows >= stop_at):
            break
    if stop_at is not None:
        shown = "\n".join(f"  {reason}" for reason in bad[:_SHOWN_BAD_ROWS])
        raise TaskError(
            f"{name} has more malformed rows than max_bad_rows={max_bad_rows} allows:\n{shown}\n"
            "Mend them, or raise max_bad_rows to leave such rows out."
        )


def _add(row: Row | BadRow, account: Account) -> Conversation | None:
    """Read one row into the account; what is learnt of it.

    Raises:
        MalformedError: It is malformed; where it is of another format than the rest, the message says so.
    """
    if isinstance(row, BadRow):
        raise MalformedError(row.reason)
    try:
        conversation = READERS[account.format](row)
    except LeftOutError as left_out:
        account.leave_out("rows", str(left_out), row.location)
        return None
    except RecursionError as error:
        raise MalformedError("it is nested too deeply") from error
    except MalformedError as error:
        others = formats_of(row.values)
        if others and account.format not in (*others, _EXPERIMENT):
            raise MalformedError(f"{error} (the row looks like {others[0]}, not {account.format})") from error
        raise
    learnt = account.add(conversation)
    if account.format == _EXPERIMENT:
        turns, calls = glaive_experiment.passed_over(row)
        reason = "not the first turn that calls, which alone the experiment keeps"
        account.leave_out("turns", reason, row.location, turns)
        account.leave_out("calls", reason, row.location, calls)
    return learnt
