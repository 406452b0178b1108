"""What a study is: base, data, arms, seeds and questions, read from a YAML file and checked key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tinyengram.errors import TinyEngramError, nearest
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.formats import known_format
from tinyengram.training import TrainingSettings


class StudyError(TinyEngramError):
    """A study cannot be run as it is written."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BaseSection(_Section):
    """The model that every arm starts from."""

    name: str
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False


class DataSection(_Section):
    """What the arms learn; see ``tasks.chat_data`` (``load_conversations``, ``split``) and ``tasks.rendering``."""

    name: str
    format: str = "auto"
    learn: Literal["all", "calls", "last"] = "all"
    revision: str | None = None
    template: Literal["tokenizer", "chatml"] = "tokenizer"
    max_length: int = Field(default=2048, ge=2)
    on_too_long: Literal["drop", "truncate"] = "drop"
    max_bad_rows: int = Field(default=0, ge=0)
    split_seed: int = 42
    eval_fraction: float | None = Field(default=None, gt=0, lt=1)
    eval_limit: int | None = Field(default=200, ge=1)
    train_limit: int | None = Field(default=None, ge=1)

    @field_validator("format")
    @classmethod
    def _known_format(cls, format: str) -> str:
        try:
            known_format(format)
        except TaskError as error:
            raise ValueError(str(error)) from error
        return format


PromptName = Literal["plain", "chat", "chat with tools"]
"""How a probe is put: its own plain prompt, or the training data's chat template without or with a tool offered."""


class TruthfulQASection(_Section):
    """Which questions show what was forgotten, and how they are put."""

    name: str = "truthfulqa-subset"
    limit: int | None = Field(default=None, ge=1)
    prompts: list[PromptName] = Field(default=["plain", "chat", "chat with tools"], min_length=1)


class ChoiceSetSection(_Section):
    """A multiple-choice set that is asked as TruthfulQA is; see ``tasks.choice_sets.load_choice_set``."""

    name: str
    limit: int | None = Field(default=None, ge=1)


class DriftSection(_Section):
    """How many general texts are read, and up to how many tokens, to see how far predictions moved from the base's."""

    name: str = "plot-summaries"
    texts: int = Field(default=20, ge=1)
    max_tokens: int = Field(default=256, ge=2)


class CallsSection(_Section):
    """How many generated calls are judged: held-out requests, and requests that none of the offered tools fits."""

    wanted: int = Field(default=40, ge=1)
    unwanted: int = Field(default=20, ge=0)
    max_new_tokens: int = Field(default=128, ge=1)
    batch_size: int = Field(default=8, ge=1)


class ArmSection(_Section):
    """A PEFT method with its options, and where its training differs from the study's.

    ``rates`` are learning rates to choose from instead of the one in ``training``: each is tried with the study's first
    seed, and the lowest training loss at the stops in the second half of the run decides for every seed.
    """

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    rates: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)


class Study(_Section):
    """A whole study. ``reference`` names the arm that the others are matched to, at up to ``levels`` eval losses."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    base: BaseSection
    data: DataSection
    truthfulqa: TruthfulQASection = TruthfulQASection()
    accuracy: list[ChoiceSetSection] = Field(default_factory=list)
    drift: DriftSection | None = None
    calls: CallsSection | None = None
    training: dict[str, Any]
    arms: dict[str, ArmSection] = Field(min_length=1)
    reference: str
    levels: int = Field(default=1, ge=1)
    seeds: list[int] = Field(default=[0], min_length=1)

    @field_validator("arms")
    @classmethod
    def _arm_names(cls, arms: dict[str, ArmSection]) -> dict[str, ArmSection]:
        for name in arms:
            if not name or name == "base" or any(character in name for character in "/\\") or name.startswith("."):
                raise ValueError(f"arm name {name!r} cannot name a folder, or is taken by the base")
        return arms

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds {seeds} names one seed more than once")
        return seeds

    @field_validator("arms")
    @classmethod
    def _distinct_rates(cls, arms: dict[str, ArmSection]) -> dict[str, ArmSection]:
        for name, arm in arms.items():
            if len({f"{rate:g}" for rate in arm.rates}) < len(arm.rates):
                raise ValueError(f"rates {arm.rates} of arm {name!r} names one rate more than once")
        return arms

    @field_validator("accuracy")
    @classmethod
    def _distinct_sets(cls, sets: list[ChoiceSetSection]) -> list[ChoiceSetSection]:
        names = [one.name for one in sets]
        if len(set(names)) < len(names):
            raise ValueError(f"{names} names one set more than once")
        return sets

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if self.reference not in self.arms:
            raise ValueError(f"reference {self.reference!r} is not an arm.{nearest(self.reference, self.arms)}")
        losses = {self.settings(arm).loss_on for arm in self.arms}
        if len(losses) > 1:
            raise ValueError("every arm must train the same loss (loss_on), or their losses cannot be matched")
        return self

    def settings(self, arm: str, learning_rate: float | None = None) -> TrainingSettings:
        """How one arm is trained: the study's settings with the arm's own on top.

        An arm that gives ``epochs`` replaces the study's ``max_steps``, and the other way round.

        Args:
            arm: Its name.
            learning_rate: One of the arm's ``rates``, if it has any; None: the first.
        """
        own, shared = dict(self.arms[arm].training), dict(self.training)
        if rates := self.arms[arm].rates:
            if "learning_rate" in own:
                raise ValueError(f"arms.{arm} gives both rates and training.learning_rate; give one of them")
            own["learning_rate"] = rates[0] if learning_rate is None else learning_rate
        if own.keys() & {"epochs", "max_steps"}:
            shared.pop("epochs", None)
            shared.pop("max_steps", None)
        try:
            return TrainingSettings.model_validate({**shared, **own})
        except ValidationError as error:
            raise ValueError("; ".join(_explain(error, TrainingSettings, f"arms.{arm}.training"))) from error

    @property
    def loss_on(self) -> Literal["whole", "answer"]:
        """The loss that is trained and matched."""
        return self.settings(self.reference).loss_on


def presets() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    inside = Path(__file__).parent.parent / "studies"
    folder = inside if inside.is_dir() else Path(__file__).parents[3] / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(name_or_path: str) -> Study:
    """Load a study from a preset's name or a YAML file.

    Paths of data and question files are taken relative to the study file when they exist there.

    Raises:
        StudyError: There is no such study, it is not YAML, or a key or value cannot be used; names the nearest key.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        known = presets()
        if name_or_path not in known:
            raise StudyError(
                f"There is no preset {name_or_path!r}.{nearest(name_or_path, known)} A file must end in .yaml."
            )
        path = known[name_or_path]
    if not path.is_file():
        raise StudyError(f"The study file {path} does not exist.")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {error}") from error
    return parse_study(content, path)


def parse_study(content: Any, path: Path) -> Study:
    """Check what a study file says; ``path`` is for messages and relative file names."""
    if not isinstance(content, dict):
        raise StudyError(f"{path} must hold keys such as name, base, data, training and arms.")

    def located(part: Any) -> Any:
        if isinstance(part, list):
            return [located(one) for one in part]
        if isinstance(part, dict) and isinstance(part.get("name"), str) and (path.parent / part["name"]).exists():
            return {**part, "name": str((path.parent / part["name"]).resolve())}
        return part

    sections = content.keys() & {"data", "truthfulqa", "base", "accuracy", "drift"}
    content |= {section: located(content[section]) for section in sections}
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{path}: " + "; ".join(_explain(error, Study, ""))) from error


def _explain(error: ValidationError, model: type[BaseModel], prefix: str) -> list[str]:
    """Each problem in plain words with the path of its key; a misspelt key is told its nearest."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in (prefix, *problem["loc"]) if part != "")
        if problem["type"] == "extra_forbidden":
            key = str(problem["loc"][-1])
            lines.append(f"unknown key {where!r}.{nearest(key, _keys_at(model, problem['loc'][:-1]))}")
        elif problem["type"] == "missing":
            lines.append(f"{where!r} is missing")
        else:
            reason = problem["msg"].removeprefix("Value error, ")
            given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
            lines.append(f"{where}: {reason}{given}" if where else reason)
    return lines


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys that are known where ``path`` leads."""
    sections: dict[str, type[BaseModel]] = {
        "base": BaseSection,
        "data": DataSection,
        "truthfulqa": TruthfulQASection,
        "accuracy": ChoiceSetSection,
        "drift": DriftSection,
        "calls": CallsSection,
        "arms": ArmSection,
    }
    found = sections.get(str(path[0]), model) if path else model
    return list(found.model_fields)
