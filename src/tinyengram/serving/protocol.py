"""OpenAI's chat completions: what a request may say, and how answers and refusals are written.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tinyengram.errors import TinyEngramError, nearest
from tinyengram.serving.conversation import Answer
from tinyengram.tasks.formats.values import MalformedError, json_text, shown

# What cannot be done, with the values that ask for nothing.
_CANNOT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "store": (False,),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "functions": (),
    "function_call": (),
}
_INSTEAD = {
    "tool_choice": "'auto' lets the model call or not, 'none' offers it no tools",
    "functions": "use tools",
    "function_call": "use tools and tool_choice",
    "n": "send the request several times",
}
# What tells a service who asks, and changes no answer.
_NO_MATTER = ("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")

_Count = Annotated[int, Field(ge=1)]
_Stop = Annotated[str, Field(min_length=1)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class RequestError(TinyEngramError):
    """A request that cannot be answered.

    Args:
        message: What is wrong, with the value and the remedy.
        status: Of the answer, as HTTP has it.
        param: The field that is meant.
        code: OpenAI's word for it.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """A request for an answer; what it leaves out is null."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    stop: Annotated[list[_Stop], BeforeValidator(_listed), Field(max_length=4)] = []
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that may be called."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def most_tokens(self) -> int | None:
        """Where the answer is to be cut."""
        return self.max_completion_tokens or self.max_tokens


def read_request(body: bytes) -> ChatRequest:
    """A request from its bytes.

    Raises:
        RequestError: It is no JSON object, or asks for what is not known or cannot be done.
    """
    try:
        values = json_text(body.decode(), "The body")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"The body is not UTF-8 ({error.reason}). Send an object with model and messages."
        ) from error
    except MalformedError as error:
        raise RequestError(f"{error}. Send an object with model and messages.") from error
    if not isinstance(values, dict):
        raise RequestError(f"The body must be a JSON object with model and messages, not {shown(values)}.")
    values = {name: value for name, value in values.items() if value is not None and name not in _NO_MATTER}
    for name, value in list(values.items()):
        if name in _CANNOT:
            _refuse_what_cannot_be(name, value)
            if name != "tool_choice":
                del values[name]
        elif name not in ChatRequest.model_fields:
            near = nearest(name, ChatRequest.model_fields)
            raise RequestError(f"The field {shown(name)} is unknown.{near}", param=name, code="unknown_parameter")
    try:
        return ChatRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        given = "" if first["type"] == "missing" else f", not {shown(first['input'])}"
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise RequestError(f"{where}: {said}{given}.", param=str(first["loc"][0]) if first["loc"] else None) from error


def _refuse_what_cannot_be(name: str, value: Any) -> None:
    idle = _CANNOT[name]
    # 1 == True, and 0 == False, which is not what was written.
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in idle):
        instead = _INSTEAD.get(name, f"leave it out{f', or give {json.dumps(idle[0])}' if idle else ''}")
        raise RequestError(
            f"{name}={shown(value)} cannot be done here: {instead}.", param=name, code="unsupported_parameter"
        )


# --- answers ---------------------------------------------------------------------------------------------------------


class Reply:
    """Writes one answer, whole or in pieces.

    Args:
        model: Id of who answers.
        prompt_tokens: Of the prompt.
    """

    def __init__(self, model: str, prompt_tokens: int) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._prompt_tokens = prompt_tokens

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a response."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.said or None, "refusal": None}
        if answer.calls:
            message["tool_calls"] = _calls(answer)
        else:
            message["content"] = answer.said
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(answer)}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage(answer)}

    def begun(self) -> str:
        """The first event of a stream."""
        return self._event({"role": "assistant", "content": ""})

    def piece(self, text: str) -> str:
        """The event of a piece of text."""
        return self._event({"content": text})

    def called(self, answer: Answer) -> str:
        """The event of an answer's calls."""
        return self._event({"tool_calls": [{"index": at, **call} for at, call in enumerate(_calls(answer))]})

    def ended(self, answer: Answer, *, usage: bool) -> Iterator[str]:
        """The last events of a stream."""
        yield self._event({}, _reason(answer))
        if usage:
            yield event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage(answer)})
        yield "data: [DONE]\n\n"

    def _event(self, delta: Mapping[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    def _usage(self, answer: Answer) -> dict[str, int]:
        prompt, said = self._prompt_tokens, answer.tokens
        return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def event(values: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in answer.calls
    ]


def _reason(answer: Answer) -> str:
    if answer.calls:
        return "tool_calls"
    return "length" if answer.ending == "length" else "stop"
