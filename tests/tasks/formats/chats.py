"""One chat in every format that can hold it, so that each test changes one thing about it."""

from __future__ import annotations

import json
from typing import Any

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.formats import READERS

WEATHER = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [WEATHER]
OSLO, ROME, BONN = ({"city": city} for city in ("Oslo", "Rome", "Bonn"))
RESULTS = ('{"degrees": 4}', '{"degrees": 21}', '{"degrees": 9}')

TURNS = (
    Turn("system", "Be brief."),
    Turn("user", "Weather in Oslo?"),
    Turn("assistant", "I look.", (Call("weather", OSLO),)),
    Turn("tool", RESULTS[0], name="weather", answers=0),
    Turn("assistant", "It's 4 °C."),
    Turn("user", "And in Rome and Bonn?"),
    Turn("assistant", "", (Call("weather", ROME), Call("weather", BONN))),
    Turn("tool", RESULTS[1], name="weather", answers=1),
    Turn("tool", RESULTS[2], name="weather", answers=2),
    Turn("assistant", "21 and 9 °C."),
)


def read(format: str, values: dict[str, Any]) -> Conversation:
    """The conversation that a format's reader makes of a row."""
    return READERS[format](Row("rows.jsonl:1", values))


def openai(*, as_objects: bool = False) -> dict[str, Any]:
    def calls(*arguments: dict, first: int) -> list[dict]:
        return [
            {
                "type": "function",
                "function": {"name": "weather", "arguments": value if as_objects else json.dumps(value)},
                **({} if as_objects else {"id": f"call_{number}"}),
            }
            for number, value in enumerate(arguments, start=first)
        ]

    def result(number: int) -> dict:
        return {
            "role": "tool",
            "content": RESULTS[number],
            **({} if as_objects else {"tool_call_id": f"call_{number}"}),
        }

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": "I look.", "tool_calls": calls(OSLO, first=0)},
        result(0),
        {"role": "assistant", "content": "It's 4 °C.", "tool_calls": []},
        {"role": "user", "content": "And in Rome and Bonn?"},
        {"role": "assistant", "content": None, "tool_calls": calls(ROME, BONN, first=1)},
        result(1),
        result(2),
        {"role": "assistant", "content": "21 and 9 °C.", "tool_calls": None},
    ]
    return {"messages": messages, "tools": [{"type": "function", "function": tool} for tool in TOOLS]}


def _call(arguments: dict) -> dict:
    return {"name": "weather", "arguments": arguments}


def sharegpt() -> dict[str, Any]:
    turns = [
        ("human", "Weather in Oslo?"),
        ("gpt", "I look."),
        ("function_call", json.dumps(_call(OSLO))),
        ("observation", RESULTS[0]),
        ("gpt", "It's 4 °C."),
        ("human", "And in Rome and Bonn?"),
        ("function_call", json.dumps([_call(ROME), _call(BONN)])),
        ("observation", RESULTS[1]),
        ("observation", RESULTS[2]),
        ("gpt", "21 and 9 °C."),
    ]
    return {"system": "Be brief.", "tools": json.dumps(TOOLS), "conversations": _turns(turns)}


def _turns(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in turns]


HERMES_SYSTEM = (
    "Be brief. You are provided with function signatures within <tools></tools> XML tags. You may call functions.\n"
    "<tools>\n{tools}\n</tools>\nFor each function call return an object within <tool_call></tool_call> XML tags:\n"
    "<tool_call>\n{{'arguments': <args-dict>, 'name': <function-name>}}\n</tool_call>"
)


def hermes(write: Any = json.dumps) -> dict[str, Any]:
    """``write`` writes the calls and tools: ``json.dumps``, or ``repr`` as in the original data."""

    def calls(*arguments: dict) -> str:
        return "\n".join(f"<tool_call>\n{write(_call(value))}\n</tool_call>" for value in arguments)

    def results(*texts: str) -> str:
        return "\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in texts)

    system = HERMES_SYSTEM.format(tools=write([{"type": "function", "function": tool} for tool in TOOLS]))
    turns = [
        ("system", system),
        ("human", "Weather in Oslo?"),
        ("gpt", f"I look.\n{calls(OSLO)}"),
        ("tool", results(RESULTS[0])),
        ("gpt", "It's 4 °C."),
        ("human", "And in Rome and Bonn?"),
        ("gpt", calls(ROME, BONN)),
        ("tool", results(*RESULTS[1:])),
        ("gpt", "21 and 9 °C."),
    ]
    return {"conversations": _turns(turns)}


TOOLACE_SYSTEM = (
    "Be brief.\nHere is a list of functions in JSON format that you can invoke:\n{tools}. \nShould you decide to "
    "return the function call(s). \nPut it in the format of [func1(params_name=params_value, params_name2=value2...)"
    ", func2(params)]\n\nNO other text MUST be included. \n"
)


def toolace() -> dict[str, Any]:
    turns = [
        ("user", "Weather in Oslo?"),
        ("assistant", 'I look.\n[weather(city="Oslo")]'),
        ("tool", RESULTS[0]),
        ("assistant", "It's 4 °C."),
        ("user", "And in Rome and Bonn?"),
        ("assistant", "[weather(city='Rome'), weather(city='Bonn')]"),
        ("tool", f"[{RESULTS[1]}, {RESULTS[2]}]"),
        ("assistant", "21 and 9 °C."),
    ]
    return {"system": TOOLACE_SYSTEM.format(tools=json.dumps(TOOLS)), "conversations": _turns(turns)}


GLAIVE_SYSTEM = "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"


def glaive() -> dict[str, Any]:
    """The chat's first half and a last word; Glaive has no results of parallel calls."""
    chat = (
        'USER: Weather in Oslo?\n\n\nASSISTANT: I look. <functioncall> {"name": "weather", "arguments": \''
        f"{json.dumps(OSLO)}'}} <|endoftext|>\n\n\nFUNCTION RESPONSE: {RESULTS[0]}\n\n\n"
        "ASSISTANT: It's 4 °C. <|endoftext|>\n\n\nUSER: Thanks.\n\n\nASSISTANT: Any time. <|endoftext|>\n\n\n"
    )
    return {"system": GLAIVE_SYSTEM + json.dumps(WEATHER, indent=4) + "\n", "chat": chat}


def xlam() -> dict[str, Any]:
    tool = {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "city": {"type": "str", "description": "Where."},
            "days": {"type": "int, optional", "description": "How many.", "default": "1"},
        },
    }
    answers = [_call(ROME), _call(BONN)]
    return {"query": "Rome and Bonn?", "answers": json.dumps(answers), "tools": json.dumps([tool])}


def instruction() -> dict[str, Any]:
    return {"instruction": "Be brief.", "input": "Hi", "output": " Hello.\n"}


EVERY = {
    "openai": openai(),
    "sharegpt": sharegpt(),
    "hermes": hermes(),
    "toolace": toolace(),
    "glaive": glaive(),
    "glaive-experiment": glaive(),
    "xlam": xlam(),
    "instruction": instruction(),
}
