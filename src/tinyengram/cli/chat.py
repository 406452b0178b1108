"""``tinyengram chat``: talk to an adapter, and to its base for comparison."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyengram.cli.exits import EXIT_BAD_INPUT, interruptible
from tinyengram.errors import TinyEngramError, nearest

if TYPE_CHECKING:
    from tinyengram.serving import Answer, Talk
    from tinyengram.tasks.conversations import Call

_HELP = """\
/base         what the base alone says to the last message (the adapter switched off); not kept
/again        another answer to the last message, drawn instead of the likeliest
/result TEXT  the result of a call that the model made
/tools        the tools that are offered
/system TEXT  replace the system text; without TEXT, show it
/reset        begin anew, with the same tools and system text
/help         this
/quit         end, as Ctrl-D does; Ctrl-C stops an answer
Anything else is a message. One that begins with a slash needs a blank before it."""


def chat(
    adapter: Annotated[
        str, typer.Argument(help="A folder with adapter_config.json, or a model: an embedded name, a folder, a Hub id.")
    ],
    base: Annotated[str | None, typer.Option(help="The adapter's base, if not the one that it names.")] = None,
    tools: Annotated[Path | None, typer.Option(help="A JSON list of functions that may be called.")] = None,
    system: Annotated[str, typer.Option(help="Text of the system turn.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="An answer is cut there.")] = 512,
    template: Annotated[str, typer.Option(help="tokenizer (its own chat template) or chatml.")] = "tokenizer",
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as one line of JSON.")] = False,
) -> None:
    """Talk to an adapter (any PEFT method) in the terminal; /help there shows the commands.

    Answers go to standard output, all else to standard error. Where standard input is no terminal, each line of it is
    a message or a command.
    """
    from tinyengram.cli.progress import prepare_process
    from tinyengram.serving import Talk, load_served, load_tools
    from tinyengram.tasks.rendering import known_template

    with interruptible("Interrupted."):
        prepare_process()
        kind, offered = known_template(template), load_tools(tools) if tools is not None else ()
        served = load_served(adapter, base=base)
        talk = Talk(served, template=kind, tools=offered, system=system, max_new_tokens=max_new_tokens)
        session = _Session(talk, as_json=as_json)
        session.greet()
        for line in session.lines():
            if not session.take(line):
                break
    if session.refused and not session.is_live:
        raise typer.Exit(EXIT_BAD_INPUT)


class _Session:
    """Lines in, answers out.

    Attributes:
        is_live: Whether somebody types.
        refused: Whether a line could not be answered.
    """

    def __init__(self, talk: Talk, *, as_json: bool) -> None:
        self._talk, self._as_json = talk, as_json
        self.is_live = sys.stdin is not None and sys.stdin.isatty()  # None where it was closed (<&-).
        self.refused = False

    def greet(self) -> None:
        """Say who answers and how the conversation is written."""
        served, names = self._talk.served, [tool["name"] for tool in self._talk.conversation.tools]
        _note(f"{served.name}: {served.method} on {served.base}" if served.base else served.name)
        if not served.use_cache:
            _note(f"PEFT generates wrongly from {served.method} with a cache here: answers come without one, slowly.")
        _note(f"Rendering: {self._talk.renderer.description}")
        _note(f"Tools: {', '.join(names) or 'none'}")
        if names and self._talk.renderer.call_format == "other":
            _note("Its calls are in a notation that cannot be read here: they are shown as text.")
        if self.is_live:
            _note("/help shows the commands.")

    def lines(self) -> Iterator[str]:
        """What is typed, or piped in.

        Raises:
            TinyEngramError: It is not UTF-8.
        """
        if sys.stdin is None:
            return
        if self.is_live:
            import readline  # noqa: F401 - input() edits lines and remembers them once this is imported
        while True:
            try:
                if self.is_live and not sys.stdout.isatty():
                    print("> ", end="", file=sys.stderr, flush=True)
                yield input("> " if self.is_live and sys.stdout.isatty() else "")
            except EOFError:
                return
            except UnicodeDecodeError as error:
                raise TinyEngramError(f"Standard input is not UTF-8 ({error.reason}). Convert it.") from error

    def take(self, line: str) -> bool:
        """Do what a line says; False to end. What cannot be done is said in a line."""
        if not line.strip():
            return True
        name, _, rest = line[1:].partition(" ") if line.startswith("/") else ("", "", line)
        try:
            if name == "quit":
                return False
            if line.startswith("/"):
                self._command(name, rest.strip())
            else:
                with self._stoppable() as stop:
                    self._show(self._talk.say(rest.strip(), on_text=self._on_text, stop=stop))
        except TinyEngramError as error:
            self.refused = True
            _note(f"tinyengram: {error}")
        return True

    def _command(self, name: str, rest: str) -> None:
        commands: dict[str, Callable[[str], None]] = {
            "base": self._base,
            "again": self._again,
            "result": self._result,
            "tools": self._tools,
            "system": self._system,
            "reset": self._reset,
            "help": lambda _: _note(_HELP),
        }
        if name not in commands:
            known = [f"/{one}" for one in (*commands, "quit")]
            raise TinyEngramError(
                f"There is no command '/{name}'.{nearest(f'/{name}', known)} A message that begins with a slash needs "
                "a blank before it."
            )
        commands[name](rest)

    def _base(self, _: str) -> None:
        with self._stoppable() as stop:
            self._show(self._talk.of_base(on_text=self._on_text, stop=stop), role="base")

    def _again(self, _: str) -> None:
        with self._stoppable() as stop:
            self._show(self._talk.again(on_text=self._on_text, stop=stop))

    def _result(self, text: str) -> None:
        if not text:
            raise TinyEngramError("/result is given no text. Write what the tool gives back: /result TEXT.")
        with self._stoppable() as stop:
            answer = self._talk.give_result(text, on_text=self._on_text, stop=stop)
        if answer is None:
            _note(f"Noted. {len(self._talk.unanswered)} more to come; next: {_written(self._talk.unanswered[0])}")
        else:
            self._show(answer)

    def _tools(self, _: str) -> None:
        for tool in self._talk.conversation.tools:
            _note(f"{tool['name']}: {tool['description']} {json.dumps(tool['parameters'], ensure_ascii=False)}")
        if not self._talk.conversation.tools:
            _note("None. Start with --tools FILE.")

    def _system(self, text: str) -> None:
        from tinyengram.tasks.conversations import system_text

        if text:
            self._talk.set_system(text)
        _note(f"System text: {system_text(self._talk.conversation) or 'none'}")

    def _reset(self, _: str) -> None:
        self._talk.reset()
        _note("Begun anew.")

    # --- answers -------------------------------------------------------------------------------------------------

    def _on_text(self, piece: str) -> None:
        if not self._as_json:
            print(piece, end="", flush=True)

    def _show(self, answer: Answer, role: str = "assistant") -> None:
        """Close an answer that was printed as it came, or print it; then say what is to be known of it."""
        if self._as_json:
            calls = [
                {"name": call.name, "arguments": call.arguments, "misfit": misfit}
                for call, misfit in zip(answer.calls, answer.misfits, strict=True)
            ]
            print(json.dumps({"role": role, "content": answer.said, "calls": calls}, ensure_ascii=False), flush=True)
        else:
            print(flush=True)
        for call, misfit in zip(answer.calls, answer.misfits, strict=True):
            _note(f"call: {_written(call)}")
            if misfit is not None:
                _note(f"  the tool's arguments do not fit its schema: {misfit}")
        if answer.broken:
            _note("It is meant as a call, but cannot be read as one.")
        if answer.ending == "length":
            _note(f"Cut off after {answer.tokens} tokens; --max-new-tokens allows more where the context has room.")
        elif answer.ending == "stopped":
            _note("Stopped.")
        if answer.calls and role == "assistant" and self.is_live:
            _note("/result TEXT gives the call's result.")

    def _stoppable(self) -> AbstractContextManager[Callable[[], bool]]:
        return _ctrl_c() if self.is_live else nullcontext(lambda: False)


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed meanwhile; once more, it interrupts as ever (where a long text is still being read).

    An interrupt in the midst of ``generate`` would leave PEFT's models with a method exchanged.
    """
    pressed: list[int] = []

    def press(number: int, _: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    former = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, former)


def _written(call: Call) -> str:
    return f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)}"


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
