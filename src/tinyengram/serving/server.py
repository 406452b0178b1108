"""Chat completions as OpenAI's clients ask for them, over HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jsonschema import Draft202012Validator, SchemaError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from tinyengram.errors import nearest
from tinyengram.files import keep_trace
from tinyengram.serving.batching import Batcher, BusyError
from tinyengram.serving.conversation import Answer, read_answer
from tinyengram.serving.generation import Generated
from tinyengram.serving.model import ServingError
from tinyengram.serving.protocol import ChatRequest, Reply, RequestError, event, read_request
from tinyengram.serving.speakers import Speaker
from tinyengram.serving.streams import Asked, Drawing, News, Stream
from tinyengram.sources.json_text import Row
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.formats import MalformedError, openai
from tinyengram.tasks.formats.values import shown

_MOST_BYTES = 1 << 20  # of a request
_BODY_SECONDS = 30.0
_LOOK_SECONDS = 0.25  # how soon it is noticed that a client has gone
_COLD = 1e-3  # A temperature below it takes the likeliest token: logits are not divided by next to nothing.
_GONE = 499  # as nginx logs a client that left; nobody reads it


@dataclass(frozen=True)
class _Prepared:
    """A request that can be answered."""

    asked: Asked
    tools: tuple[dict[str, Any], ...]
    reply: Reply


@dataclass(frozen=True, eq=False)
class _Ear:
    """What the batcher's thread tells, brought to the server's."""

    loop: asyncio.AbstractEventLoop
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)

    def tell(self, one: News) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.news.put_nowait, one)


class Routes:
    """What is answered at which address.

    Args:
        speakers: Who can be asked, by id.
        batcher: Generates for them.
        most_tokens: No answer may be longer.
    """

    def __init__(self, speakers: Mapping[str, Speaker], batcher: Batcher, *, most_tokens: int) -> None:
        self._speakers, self._batcher, self._most_tokens = speakers, batcher, most_tokens
        # One at a time, since tokenizers are not made for several threads.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tinyengram-writer")

    async def health(self) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(one) for one in self._speakers.values()]})

    async def model(self, id: str) -> Response:
        return JSONResponse(self._described(self._speaker(id)))

    async def chat(self, request: Request) -> Response:
        try:
            wanted = read_request(await _body(request))
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(self._writer, self._prepare, wanted)
            ear = _Ear(loop)
            stream = self._batcher.ask(prepared.asked, ear.tell)
        except ClientDisconnect:
            return Response(status_code=_GONE)
        except BusyError as error:
            raise RequestError(str(error), status=503, code="overloaded") from error
        if wanted.stream:
            usage = bool(wanted.stream_options and wanted.stream_options.include_usage)
            events = self._events(request, prepared, stream, ear, usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        generated = await self._last(request, stream, ear)
        if generated is None:
            return Response(status_code=_GONE)
        return JSONResponse(prepared.reply.whole(_answer(generated, prepared.tools)))

    # --- requests ------------------------------------------------------------------------------------------------

    def _speaker(self, id: str) -> Speaker:
        if id not in self._speakers:
            message = (
                f"There is no model {id!r} here.{nearest(id, self._speakers)} Served: {', '.join(self._speakers)}."
            )
            raise RequestError(message, status=404, param="model", code="model_not_found")
        return self._speakers[id]

    def _described(self, speaker: Speaker) -> dict[str, Any]:
        return {"id": speaker.id, "object": "model", "created": 0, "owned_by": "tinyengram"}

    def _prepare(self, wanted: ChatRequest) -> _Prepared:
        speaker = self._speaker(wanted.model)
        if (most := wanted.most_tokens) is not None and most > self._most_tokens:
            name = "max_completion_tokens" if wanted.max_completion_tokens else "max_tokens"
            raise RequestError(
                f"{name}={most} is more than this server gives: ask for {self._most_tokens} at most.", param=name
            )
        try:
            said = openai.read(Row("The request", {"messages": wanted.messages, "tools": wanted.offered}), as_said=True)
            _check_schemas(said.tools)
            prompt = speaker.renderer.prompt(said)
        except (MalformedError, TaskError) as error:
            raise RequestError(f"{str(error).rstrip('.')}.") from error
        ids = speaker.served.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        room = self._most_tokens if most is None else most
        if speaker.context is not None:
            room = min(room, speaker.context - len(ids))
        if room < 1:
            raise RequestError(
                f"The messages have {len(ids)} tokens, but {speaker.id} reads at most {speaker.context} with the "
                "answer. Shorten them, or begin anew.",
                param="messages",
                code="context_length_exceeded",
            )
        asked = Asked(
            ids, speaker.adapter, speaker.renderer.end_ids, room, speaker.decoder, tuple(wanted.stop), _drawing(wanted)
        )
        return _Prepared(asked, said.tools, Reply(speaker.id, len(ids)))

    # --- answers -------------------------------------------------------------------------------------------------

    async def _heard(self, request: Request, stream: Stream, ear: _Ear) -> AsyncIterator[News]:
        """News of an answer; ends early, and the answer with it, where the client has gone."""
        try:
            while True:
                try:
                    one = await asyncio.wait_for(ear.news.get(), _LOOK_SECONDS)
                except TimeoutError:
                    if await request.is_disconnected():
                        return
                    continue
                yield one
                if not isinstance(one, str):
                    return
        finally:
            stream.give_up()

    async def _last(self, request: Request, stream: Stream, ear: _Ear) -> Generated | None:
        """The whole answer; None where the client has gone.

        Raises:
            RequestError: It failed.
        """
        async for one in self._heard(request, stream, ear):
            if isinstance(one, Exception):
                raise _failure(one)
            if isinstance(one, Generated):
                return one
        return None

    async def _events(
        self, request: Request, prepared: _Prepared, stream: Stream, ear: _Ear, usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events of an answer.

        Where tools are offered, text is held back until it is known what of it is a call: any format may begin as
        prose does.
        """
        reply, tools = prepared.reply, prepared.tools
        yield reply.begun()
        async for one in self._heard(request, stream, ear):
            if isinstance(one, Exception):
                yield event(_failure(one).body)
            elif isinstance(one, Generated):
                answer = _answer(one, tools)
                if tools and answer.said:
                    yield reply.piece(answer.said)
                if answer.calls:
                    yield reply.called(answer)
                for last in reply.ended(answer, usage=usage):
                    yield last
            elif not tools:
                yield reply.piece(one)


def make_app(routes: Routes, *, hosts: list[str]) -> FastAPI:
    """The application; without pages of its own, and without headers that let other sites' pages in.

    Args:
        routes: What it answers.
        hosts: Names that requests may call it by, ``["*"]`` for any: a page elsewhere could have its own name point
            here.
    """
    app = FastAPI(title="tinyengram", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_api_route("/health", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models", routes.models, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models/{id:path}", routes.model, methods=["GET"], response_model=None)
    app.add_api_route("/v1/chat/completions", routes.chat, methods=["POST"], response_model=None)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_exception_handler(Exception, _fault)
    return app


def hosts_for(host: str) -> list[str]:
    """Names by which a server that listens at ``host`` may be called; any where others shall reach it."""
    return ["localhost", "127.0.0.1", "[::1]", host] if is_loopback(host) else ["*"]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _body(request: Request) -> bytes:
    """The bytes of a request.

    Raises:
        RequestError: They are too many, come too slowly or are not said to be JSON, as other sites' pages cannot say
            unasked.
        ClientDisconnect: They were cut off.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise RequestError(f"Content-Type is {kind!r}. Send JSON as application/json.", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise RequestError(
                        f"The body has more than {_MOST_BYTES:,} bytes. Send a shorter conversation.", status=413
                    )
    except TimeoutError as error:
        raise RequestError(f"The body did not come within {_BODY_SECONDS:.0f} s. Send it anew.", status=408) from error
    return bytes(body)


def _check_schemas(tools: tuple[dict[str, Any], ...]) -> None:
    """See that what tools take is described by JSON Schema.

    Raises:
        RequestError: It is not.
    """
    for tool in tools:
        try:
            Draft202012Validator.check_schema(tool["parameters"])
        except SchemaError as error:
            place = error.json_path.replace("$", "parameters", 1)
            raise RequestError(
                f"The tool {shown(tool['name'])} is not described by JSON Schema: {place} is {shown(error.instance)}. "
                "Mend it, or leave the tool out.",
                param="tools",
            ) from error


def _drawing(wanted: ChatRequest) -> Drawing | None:
    """How to draw; None where neither ``temperature`` nor ``top_p`` asks for it."""
    temperature = wanted.temperature
    if temperature is None:
        temperature = 0.0 if wanted.top_p is None else 1.0
    if temperature < _COLD:
        return None
    return Drawing(temperature, 1.0 if wanted.top_p is None else wanted.top_p, wanted.seed)


def _answer(generated: Generated, tools: tuple[dict[str, Any], ...]) -> Answer:
    """What was generated; where no tool is offered nothing in it is a call."""
    if tools:
        return read_answer(generated, tools)
    return Answer(generated.text, generated.text, (), (), False, generated.tokens, generated.ending)


def _failure(error: Exception) -> RequestError:
    """An answer's error in words for the client; what is no user's matter is kept for the server's."""
    if isinstance(error, ServingError):
        return RequestError(str(error), status=503)
    print(f"tinyengram: an answer failed ({type(error).__name__}); trace: {keep_trace(error)}", file=sys.stderr)
    return RequestError(f"The answer failed ({type(error).__name__}). The server's log names the trace.", status=500)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = f"{request.method} {request.url.path} is not answered here ({error.detail})."
    return await _refused(request, RequestError(f"{said} Use /v1/chat/completions.", status=error.status_code))


async def _fault(request: Request, error: Exception) -> Response:
    return await _refused(request, _failure(error))
