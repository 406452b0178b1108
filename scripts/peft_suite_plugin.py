"""A pytest plugin: PEFT's common tests with one method alone, and why each one failed.

PEFT's tests are parametrised by lists of configurations, LoRA's among them. Where LoRA is in a list, the list becomes
one row: LoRA's own first row, or the same row with another method's configuration in its place. Tests whose list knows
no LoRA are about other methods and are left out. A test so has one name whichever method it runs with.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

METHODS = ("lora", "engram", "shadow")
_CONFIGS = ("config_cls", "config_class")
_ENGRAM = {
    "layer_ids": [0, 1],
    "max_ngram_size": 3,
    "engram_vocab_size": [60, 30],
    "n_embed_per_ngram": 16,
    "n_head_per_ngram": 2,
}
_SHADOW = {"r": 2, "shadow_num_hidden_layers": 1}
_DECODER = "Decoder"
# Files of PEFT's tests that know encoders alone -> a decoder to run them with as well.
_FURTHER_MODELS = {
    "test_token_classification_qa": "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2",
    "test_feature_extraction_models": "trl-internal-testing/tiny-random-LlamaForCausalLM",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--method", choices=METHODS, required=True)
    parser.addoption("--outcomes", type=Path, required=True, help="JSON file for what became of each test")


def pytest_configure(config: pytest.Config) -> None:
    from tests import testing_utils  # PEFT's: the runner starts pytest in the folder that holds them.

    plugin = OneMethod(config.getoption("--method"), config.getoption("--outcomes"))
    config.pluginmanager.register(plugin, "one-method")
    testing_utils._HUB_MODEL_ACCESSES = AlreadyFetched(int)
    peft_helper = testing_utils.set_init_weights_false

    # What a test wants that needs an untrained adapter to change the output; PEFT's helper knows PEFT's methods only.
    def set_init_weights_false(config_cls: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if config_cls.__name__ == "EngramConfig":
            return {**kwargs, "init": "paper"}
        return peft_helper(config_cls, kwargs)

    testing_utils.set_init_weights_false = set_init_weights_false


class AlreadyFetched(defaultdict):
    """Says of every model that it was fetched before, so that PEFT's helper never goes to the hub."""

    def __contains__(self, name: object) -> bool:
        return True


class OneMethod:
    """Puts one method into every list of configurations that holds LoRA, and keeps what became of each test.

    Args:
        method: One of :data:`METHODS`.
        outcomes: File for ``{test: [outcome, reason]}``; an outcome is passed, skipped, failed, or refused: an error
            that the method's own code raised on purpose.
    """

    def __init__(self, method: str, outcomes: Path) -> None:
        import peft

        import tinyengram

        self.config_class, self.options, self.code = {
            "lora": (peft.LoraConfig, None, "peft/tuners/lora/"),
            "engram": (tinyengram.EngramConfig, _ENGRAM, "tinyengram/"),
            "shadow": (peft.ShadowConfig, _SHADOW, "peft/tuners/shadow/"),
        }[method]
        self.lora = peft.LoraConfig
        self.file = outcomes
        self.outcomes: dict[str, list[str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        own, file = metafunc.definition.own_markers, metafunc.module.__name__.rpartition(".")[2]
        own[:] = [self._with_method(mark, file) if mark.name == "parametrize" else mark for mark in own]
        if file == "test_custom_models":
            add_decoder(metafunc.module)

    def _with_method(self, mark: Any, file: str) -> Any:
        """The parametrisation with this method's row where it holds LoRA's, else as it was."""
        names, values = mark.args[:2]
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        if names == ["model_id"] and file in _FURTHER_MODELS:
            return pytest.mark.parametrize("model_id", [*values, _FURTHER_MODELS[file]]).mark
        if not set(_CONFIGS) & set(names):
            return mark
        rows = [dict(zip(names, row if len(names) > 1 else (row,), strict=True)) for row in values]
        plain = [row for row in rows if any(row.get(name) is self.lora for name in _CONFIGS)][:1]
        if plain and plain[0].get("model_id") == "MLP":
            decoder = {**plain[0], "test_name": _DECODER, "model_id": _DECODER}
            plain.append({**decoder, "config_kwargs": {"target_modules": ["q_proj", "v_proj"]}})
        cases = [
            pytest.param(*(self._value(name, value) for name, value in row.items()), id=row.get("model_id", "one"))
            for row in plain
        ]
        return pytest.mark.parametrize(names, cases).mark if cases else mark

    def _value(self, name: str, value: Any) -> Any:
        """A row's value, for this method."""
        if name in _CONFIGS:
            return self.config_class
        if self.options is not None and isinstance(value, dict):  # Options of LoRA, by several names.
            task = {key: value[key] for key in ("task_type",) if key in value}
            return {**self.options, **task}
        return value

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what is not about a method, and PEFT's tests of other methods."""
        kept = []
        for item in items:
            given = getattr(getattr(item, "callspec", None), "params", {})
            if any(given.get(name) is self.config_class for name in _CONFIGS):
                kept.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
        result = yield
        report = result.get_result()  # type: ignore[attr-defined]
        name = item.nodeid.removeprefix("tests/")
        if report.skipped:
            self.outcomes[name] = ["skipped", str(report.longrepr[-1])]
        elif report.failed and call.excinfo is not None:
            self.outcomes[name] = self._why(call.excinfo.value)
        elif report.when == "call":
            self.outcomes[name] = ["passed", ""]

    def _why(self, error: BaseException | None) -> list[str]:
        """Whether the method refused, and the error; one met while handling another counts as well."""
        first, met = error, []
        while error is not None and error not in met:
            met.append(error)
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            file = "" if trace is None else trace.tb_frame.f_code.co_filename
            if isinstance(error, ValueError | TypeError | NotImplementedError) and self.code in file:
                return ["refused", f"{type(error).__name__}: {error}"]
            error = error.__cause__ or error.__context__
        return ["failed", f"{type(first).__name__}: {first}"]

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.outcomes, indent=1, sort_keys=True))


def add_decoder(module: Any) -> None:
    """Let PEFT's tests of custom models know one more: a decoder in a module of one's own.

    Their other models have no blocks and read no tokens, so that nothing but a refusal could be seen on them.
    """
    known = module.MockTransformerWrapper.from_pretrained.__func__
    if known.__name__ == "with_decoder":
        return

    def with_decoder(cls: Any, model_id: str, dtype: Any = None) -> Any:
        return decoder(dtype) if model_id == _DECODER else known(cls, model_id, dtype)

    module.MockTransformerWrapper.from_pretrained = classmethod(with_decoder)


def decoder(dtype: Any) -> Any:
    """The decoder, the same at each call, as PEFT's own custom models are."""
    import torch
    from peft_suite_decoder import Decoder

    torch.manual_seed(0)
    return Decoder().to(dtype or torch.float32)
