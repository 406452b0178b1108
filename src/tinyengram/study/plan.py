"""What a study is: base, data, arms, seeds and questions, read from a YAML file and checked key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from tinyengram.errors import TinyEngramError, nearest
from tinyengram.scoring.probes import CallsProbe, ChoiceSetProbe, DriftProbe, Probes, TruthfulQAProbe
from tinyengram.training.job import BaseSpec, DataSpec
from tinyengram.training.settings import TrainingSettings

T = TypeVar("T", bound=BaseModel)


class StudyError(TinyEngramError):
    """A study cannot be run as it is written."""


class _Section(BaseModel):
    """``later`` names what plans had not from the first: left out while it is None, so that a plan that was written
    before is still that of the same study.
    """

    model_config = ConfigDict(extra="forbid")
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key not in self.later or value is not None}


class WiseSection(_Section):
    """WiSE-FT (arXiv 2109.01903): another arm's last checkpoint, its change of the base times each of ``scales``.

    ``of`` names the arm. Nothing is trained; the scales are this arm's stops.
    """

    of: str
    scales: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1)

    @field_validator("scales")
    @classmethod
    def _rising(cls, scales: list[float]) -> list[float]:
        if len(set(scales)) < len(scales):
            raise ValueError(f"scales {scales} names one scale more than once")
        return sorted(scales)


class ArmSection(_Section):
    """A PEFT method with its options, and where its training differs from the study's.

    ``rates`` are learning rates to choose from instead of the one in ``training``: each is tried with the study's first
    seed, and the lowest training loss at the stops in the second half of the run decides for every seed. ``wise_ft``
    stands in place of all else: the arm has method, options and training of the one that is scaled.
    """

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    rates: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)
    wise_ft: WiseSection | None = None
    later: ClassVar[tuple[str, ...]] = ("wise_ft",)

    @model_validator(mode="before")
    @classmethod
    def _scaled_has_no_method_of_its_own(cls, arm: Any) -> Any:
        return {"method": "", **arm} if isinstance(arm, dict) and arm.get("wise_ft") is not None else arm


class Study(_Section):
    """A whole study. ``reference`` names the arm that the others are matched to, at up to ``levels`` eval losses.

    ``primary`` names the arm whose comparison with the reference was decided on beforehand: its intervals are not
    widened for the others, and those of the others are widened for one another.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    base: BaseSpec
    data: DataSpec
    truthfulqa: TruthfulQAProbe = Probes().truthfulqa
    accuracy: tuple[ChoiceSetProbe, ...] = ()
    drift: DriftProbe | None = None
    calls: CallsProbe | None = None
    training: dict[str, Any]
    arms: dict[str, ArmSection]
    reference: str
    primary: str | None = None
    levels: int = Field(default=1, ge=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    later: ClassVar[tuple[str, ...]] = ("primary",)

    @field_validator("arms")
    @classmethod
    def _arm_names(cls, arms: dict[str, ArmSection]) -> dict[str, ArmSection]:
        if not arms:
            raise ValueError("no arm is given. Name at least one, such as lora: {method: lora}")
        for name in arms:
            if not name or name == "base" or any(character in name for character in "/\\") or name.startswith("."):
                raise ValueError(f"arm name {name!r} cannot name a folder, or is taken by the base")
        return arms

    @field_validator("arms")
    @classmethod
    def _scaled_arms(cls, arms: dict[str, ArmSection]) -> dict[str, ArmSection]:
        trained = [name for name, arm in arms.items() if arm.wise_ft is None]
        for name, arm in arms.items():
            if arm.wise_ft is None:
                continue
            of = arm.wise_ft.of
            if of not in trained:
                raise ValueError(f"wise_ft of arm {name!r} scales {of!r}, which no arm trains.{nearest(of, trained)}")
            whole = arms[of].model_copy(update={"wise_ft": arm.wise_ft})
            if arm not in (whole, ArmSection(method="", wise_ft=arm.wise_ft)):
                raise ValueError(
                    f"arm {name!r} gives more than wise_ft, and has all else of {of!r}. Leave the rest out"
                )
            arms[name] = whole
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

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if self.reference not in self.arms:
            raise ValueError(f"reference {self.reference!r} is not an arm.{nearest(self.reference, self.arms)}")
        if self.arms[self.reference].wise_ft is not None:
            raise ValueError(f"reference {self.reference!r} is scaled and not trained. Name an arm that is trained")
        if self.primary is not None and self.primary not in self.arms:
            raise ValueError(f"primary {self.primary!r} is not an arm.{nearest(self.primary, self.arms)}")
        if self.primary == self.reference:
            raise ValueError(f"primary {self.primary!r} is the reference itself. Name the arm that is compared with it")
        losses = {self.settings(arm).loss_on for arm in self.arms}
        if len(losses) > 1:
            raise ValueError("every arm must train the same loss (loss_on), or their losses cannot be matched")
        _ = self.probes  # Refuses what cannot be asked.
        return self

    def judged_together(self, arm: str) -> int:
        """How many comparisons the intervals of one arm's hold together with."""
        if arm == self.primary:
            return 1
        return len(self.arms) - (1 if self.primary is None else 2)

    @property
    def probes(self) -> Probes:
        """What is asked of every checkpoint."""
        return Probes(truthfulqa=self.truthfulqa, accuracy=self.accuracy, drift=self.drift, calls=self.calls)

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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise StudyError(f"{path} is not UTF-8 ({error.reason}). Convert it.") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {yaml_problem(error)}") from error
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
    return checked(Study, content, f"{path}: ")


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong with a YAML file, and where, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    hint = " Indent with blanks, not tabs." if "\\t" in problem else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}.{hint}"


def checked(schema: type[T], given: Any, where: str = "") -> T:
    """What a file or a command line says, checked key by key.

    Raises:
        StudyError: A key or value cannot be used; one line that begins with ``where`` and names each, and its nearest.
    """
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise StudyError(where + "; ".join(_explain(error, schema, ""))) from error


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
        "base": BaseSpec,
        "data": DataSpec,
        "truthfulqa": TruthfulQAProbe,
        "accuracy": ChoiceSetProbe,
        "drift": DriftProbe,
        "calls": CallsProbe,
        "arms": ArmSection,
    }
    found = sections.get(str(path[0]), model) if path else model
    return list(found.model_fields)
