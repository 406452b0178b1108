"""The server, asked by OpenAI's own client: what it answers is what ``generate`` says; what it cannot is refused."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.serving import models
from tests.serving.models import WEATHER, adapted, spread_base
from tests.serving.running import running as serving
from tinyengram.serving import Talk, load_served
from tinyengram.serving.batching import Batcher
from tinyengram.serving.generation import Generated
from tinyengram.serving.speakers import load_speakers
from tinyengram.tasks.conversations import Call

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")

TOOL = {"type": "function", "function": WEATHER}
HELLO = [{"role": "user", "content": "Hello"}]
OSLO = 'I look. <tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


@dataclass
class Running:
    """A server that runs."""

    url: str
    client: Any
    batcher: Batcher
    folders: dict[str, Path]

    def say(self, model: str = "engram", messages: Any = HELLO, **options: Any) -> Any:
        options.setdefault("max_tokens", 12)
        return self.client.chat.completions.create(model=model, messages=messages, **options)

    def post(self, body: Any, **headers: str) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers.setdefault("content-type", "application/json")
        return httpx.post(f"{self.url}/v1/chat/completions", content=content, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("adapters")
    base = spread_base()
    base.model.save_pretrained(root / "tiny")
    base.tokenizer.save_pretrained(root / "tiny")
    for name, options in {"engram": {"layer_ids": [1, 2], "init": "paper"}, "other": {"layer_ids": [2]}}.items():
        model = adapted("engram", **options).model
        model.save_pretrained(root / name)
        config = root / name / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(root / "tiny")}))
    speakers = load_speakers([str(root / "engram"), f"second={root / 'other'}"])
    folders = {"engram": root / "engram", "second": root / "other", "tiny": root / "tiny"}
    with serving(speakers, most_tokens=500, most_waiting=30) as (url, batcher):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        yield Running(url, client, batcher, folders)


@pytest.fixture
def scripted(running: Running, monkeypatch: pytest.MonkeyPatch):
    """Has the server say what it is told to, and hands over the prompts that it was given."""
    speakers = load_speakers([str(running.folders["engram"])])
    prompts: list[str] = []

    def script(*answers: str) -> list[str]:
        left = list(answers)

        def ask(asked: Any, tell: Any) -> Any:
            prompts.append(speakers["engram"].served.tokenizer.decode(asked.ids))
            text = left.pop(0)
            for at in range(0, len(text), 7):
                tell(text[at : at + 7])
            tell(Generated(text, (1,) * 5, "end of turn"))
            return type("Done", (), {"give_up": staticmethod(lambda: None)})()

        monkeypatch.setattr(running.batcher, "ask", ask)
        return prompts

    return script


def talked(running: Running, model: str, text: str, **options: Any) -> str:
    """What ``generate`` says, the adapter loaded alone."""
    return Talk(load_served(str(running.folders[model])), max_new_tokens=12, **options).say(text).text


def joined(chunks: Any) -> tuple[str, list[dict[str, Any]], str | None, Any]:
    """Text, calls, reason and usage of a stream."""
    text, calls, reason, usage = "", [], None, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            calls += [call.function.model_dump() for call in choice.delta.tool_calls or []]
            reason = choice.finish_reason or reason
    return text, calls, reason, usage


class TestAnswers:
    def test_each_model_says_what_generate_does_and_all_at_once(self, running: Running) -> None:
        wanted = [(model, f"Hello {number}") for number in range(3) for model in running.folders]
        expected = [talked(running, *one) for one in wanted]
        assert len(set(expected)) > 3
        with ThreadPoolExecutor(len(wanted)) as pool:
            said = list(pool.map(lambda one: running.say(one[0], [{"role": "user", "content": one[1]}]), wanted))
        assert [one.choices[0].message.content for one in said] == expected
        assert [one.model for one in said] == [model for model, _ in wanted]

    def test_a_stream_is_the_whole_in_pieces(self, running: Running) -> None:
        whole = running.say()
        text, calls, reason, usage = joined(running.say(stream=True, stream_options={"include_usage": True}))
        assert (text, calls) == (whole.choices[0].message.content, [])
        assert reason == whole.choices[0].finish_reason == "length"
        assert usage == whole.usage
        assert usage.completion_tokens == 12
        assert usage.total_tokens == usage.prompt_tokens + 12

    def test_the_models_that_there_are(self, running: Running) -> None:
        listed = running.client.models.list().data
        assert [one.id for one in listed] == ["engram", "second", "tiny"]
        assert running.client.models.retrieve("second").id == "second"
        assert httpx.get(f"{running.url}/health").json() == {"status": "ok"}

    def test_stop_seed_and_temperature(self, running: Running) -> None:
        whole = running.say().choices[0].message.content
        cut = running.say(stop=[whole[5:8]]).choices[0]
        assert (cut.message.content, cut.finish_reason) == (whole[: whole.find(whole[5:8])], "stop")
        drawn = [running.say(temperature=2, top_p=0.9, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert running.say(temperature=0, seed=1).choices[0].message.content == whole

    def test_a_client_that_leaves_is_dropped_and_the_others_go_on(self, running: Running, monkeypatch) -> None:
        expected = running.say().choices[0].message.content
        step = running.batcher._step
        # 500 tokens take 10 s, more than is waited here.
        monkeypatch.setattr(running.batcher, "_step", lambda group: (time.sleep(0.02), step(group)))
        body = {"model": "engram", "messages": HELLO, "max_tokens": 500}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=0.2)
        stream = running.say(stream=True, max_tokens=500)
        next(iter(stream))
        assert running.batcher._groups
        stream.close()
        assert running.say().choices[0].message.content == expected
        begun = time.monotonic()
        while running.batcher._groups and time.monotonic() - begun < 3:
            time.sleep(0.05)
        assert not running.batcher._groups


class TestTools:
    def test_the_loop_from_request_to_final_answer(self, running: Running, scripted) -> None:
        prompts = scripted(OSLO, OSLO, "Rain.")
        messages: list[Any] = [{"role": "user", "content": "Rain in Oslo?"}]
        answer = running.say(messages=messages, tools=[TOOL]).choices[0]
        assert (answer.finish_reason, answer.message.content) == ("tool_calls", "I look.")
        (call,) = answer.message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})
        text, calls, reason, _ = joined(running.say(messages=messages, tools=[TOOL], stream=True))
        assert (text, calls, reason) == ("I look.", [call.function.model_dump()], "tool_calls")
        messages += [answer.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        last = running.say(messages=messages, tools=[TOOL]).choices[0]
        assert (last.finish_reason, last.message.content, last.message.tool_calls) == ("stop", "Rain.", None)
        # The prompts are those of the same conversation in the terminal.
        played = models.scripted(OSLO, "Rain.")
        talk = Talk(played, tools=[WEATHER])
        assert talk.say("Rain in Oslo?").calls == (Call("weather", {"city": "Oslo"}),)
        talk.give_result("rain")
        assert prompts == [played.model.prompts[0], *played.model.prompts]

    def test_prose_where_tools_are_offered_is_content(self, running: Running, scripted) -> None:
        scripted("Hello  there.", "Hello  there.")
        assert running.say(tools=[TOOL]).choices[0].message.content == "Hello  there."
        assert joined(running.say(tools=[TOOL], stream=True))[:3] == ("Hello  there.", [], "stop")

    def test_none_offers_no_tool_and_reads_no_call(self, running: Running, scripted) -> None:
        prompts = scripted(OSLO, OSLO)
        for options in ({"tools": [TOOL], "tool_choice": "none"}, {}):
            answer = running.say(**options).choices[0]
            assert (answer.message.content, answer.message.tool_calls) == (OSLO, None)
        assert prompts[0] == prompts[1]

    def test_a_broken_call_is_content_and_can_be_sent_back(self, running: Running, scripted) -> None:
        broken = '<tool_call>{"name": "weather",'
        scripted(broken, "Fine.")
        answer = running.say(tools=[TOOL]).choices[0]
        assert (answer.finish_reason, answer.message.content) == ("stop", broken)
        again = [*HELLO, answer.message.model_dump(), {"role": "user", "content": "What?"}]
        assert running.say(messages=again, tools=[TOOL]).choices[0].message.content == "Fine."


GOOD = {"model": "engram", "messages": HELLO, "max_tokens": 2}
REFUSED: list[tuple[Any, int, tuple[str, ...]]] = [
    (b'{"model": ', 400, ("not valid JSON", "character 11", "model and messages")),
    (b"[]", 400, ("must be a JSON object",)),
    (b"[" * 100_000, 400, ("nested too deeply",)),
    (b'{"model": "engram", "messages": [{}], "temperature": NaN}', 400, ("temperature", "NaN")),
    (b"\xff", 400, ("not UTF-8",)),
    (b'{"model": "\\ud800", "messages": [{}]}', 404, ("ud800",)),
    (b'{"model": "engram", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, ("half a character",)),
    ({"model": "engram"}, 400, ("messages", "required")),
    (GOOD | {"messages": []}, 400, ("messages", "at least 1")),
    (GOOD | {"model": "engam"}, 404, ("'engam'", "Did you mean 'engram'?", "engram, second, tiny")),
    (GOOD | {"n": 2}, 400, ("n=2", "several times")),
    (GOOD | {"n": True}, 400, ("n=true",)),
    (GOOD | {"logprobs": True}, 400, ("logprobs=true", "leave it out")),
    (GOOD | {"response_format": {"type": "json_object"}}, 400, ("response_format", "cannot be done")),
    (GOOD | {"tool_choice": "required"}, 400, ("tool_choice", "'auto'")),
    (GOOD | {"tool_choice": {"type": "function"}}, 400, ("tool_choice", "'auto'")),
    (GOOD | {"temprature": 1}, 400, ("temprature", "Did you mean 'temperature'?")),
    (GOOD | {"temperature": 3}, 400, ("temperature", "less than or equal to 2", "not 3")),
    (GOOD | {"temperature": "hot"}, 400, ("temperature", "hot")),
    (GOOD | {"top_p": 0}, 400, ("top_p", "greater than 0")),
    (GOOD | {"max_tokens": 0}, 400, ("max_tokens", "not 0")),
    (GOOD | {"max_tokens": 501}, 400, ("max_tokens=501", "500 at most")),
    (GOOD | {"stop": ""}, 400, ("stop",)),
    (GOOD | {"stop": list("abcde")}, 400, ("stop", "at most 4")),
    (GOOD | {"seed": 2**64}, 400, ("seed",)),
    (GOOD | {"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}, 400, ("JSON Schema", "3")),
    (
        GOOD | {"tools": [{"name": "f", "parameters": {"properties": {"x": {"type": "strnig"}}}}]},
        400,
        ('"f" is not', 'parameters.properties.x.type is "strnig"'),
    ),
    (GOOD | {"tools": [{"type": "function"}]}, 400, ("tools[0]", "'name'")),
    (GOOD | {"messages": [{"role": "wizard", "content": "x"}]}, 400, ("messages[0]", "wizard", "known are")),
    (GOOD | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, ("image_url",)),
    (GOOD | {"messages": [*HELLO, {"role": "tool", "tool_call_id": "x", "content": ""}]}, 400, ("answers the call",)),
    (GOOD | {"messages": [{"role": "user", "content": "word " * 3000}]}, 400, ("tokens", "at most 2048", "Shorten")),
    (GOOD | {"messages": [{"role": "user", "content": "x" * (1 << 20)}]}, 413, ("1,048,576 bytes",)),
]


class TestRefusals:
    @pytest.mark.parametrize(("body", "status", "parts"), REFUSED, ids=[str(one)[:40] for one, _, _ in REFUSED])
    def test_what_cannot_be_answered_is_refused_in_a_line(self, running: Running, body, status, parts) -> None:
        answer = running.post(body)
        error = answer.json()["error"]
        assert answer.status_code == status
        assert set(error) == {"message", "type", "param", "code"}
        for part in parts:
            assert part in error["message"]
        assert "\n" not in error["message"]
        assert str(running.folders["engram"].parent) not in error["message"]
        assert len(error["message"]) < 400

    def test_fields_that_ask_for_nothing_are_taken(self, running: Running) -> None:
        idle = {"n": 1, "logprobs": False, "response_format": {"type": "text"}, "user": "me", "tools": None}
        assert running.post(GOOD | idle | {"tool_choice": "auto", "presence_penalty": 0}).status_code == 200

    def test_a_template_that_refuses_says_why(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        from tinyengram.tasks.errors import TaskError
        from tinyengram.tasks.rendering import Renderer

        def refuse(self: Any, said: Any, turn: Any = None) -> str:
            raise TaskError("The request: roles must alternate.")

        monkeypatch.setattr(Renderer, "prompt", refuse)
        answer = running.post(GOOD)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The request: roles must alternate.")

    def test_other_sites_cannot_ask(self, running: Running) -> None:
        assert running.post(GOOD, **{"content-type": "text/plain"}).status_code == 415
        assert running.post(GOOD, host="evil.example").status_code == 400
        answer = running.post(GOOD, origin="http://evil.example")
        assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_addresses_that_there_are_not(self, running: Running) -> None:
        for path, status in {"/v1/embeddings": 404, "/docs": 404, "/v1/chat/completions": 405}.items():
            answer = httpx.get(running.url + path)
            assert answer.status_code == status
            assert "/v1/chat/completions" in answer.json()["error"]["message"]

    def test_too_many_are_told_to_come_again(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(running.batcher, "_most_waiting", 0)
        answer = running.post(GOOD)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "Try again later" in answer.json()["error"]["message"]

    def test_an_answer_that_fails_midway(self, running: Running, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
        whole = running.batcher._step

        def break_down(group: Any) -> None:
            if len(group.streams[0].ids) > len(group.streams[0].asked.ids) + 3:
                raise RuntimeError("/secret/path")
            whole(group)

        monkeypatch.setattr(running.batcher, "_step", break_down)
        answer = running.post(GOOD | {"max_tokens": 10})
        assert answer.status_code == 500
        assert "RuntimeError" in answer.text
        assert "/secret" not in answer.text
        assert "tinyengram: an answer failed (RuntimeError); trace: " in capfd.readouterr().err
        with pytest.raises(openai.APIError, match="The answer failed"):
            list(running.say(stream=True))
        monkeypatch.undo()
        assert running.say().choices[0].message.content

    def test_a_body_that_is_cut_off(self, running: Running) -> None:
        port = int(running.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b'Content-Length: 100\r\n\r\n{"model"'
            )
        assert running.say().choices[0].message.content
