"""``results.json``: everything a report may say, in a schema with a version."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tinyengram.hardware import Hardware
from tinyengram.scoring.probes import PromptName
from tinyengram.sources.provenance import Provenance
from tinyengram.study.plan import Study
from tinyengram.study.statistics import Difference
from tinyengram.tasks.calls.judging import Outcome
from tinyengram.tasks.left_out import LeftOut
from tinyengram.training import Trajectory
from tinyengram.training.trajectory import Between

SCHEMA_VERSION: Literal[2] = 2

Role = Literal["base", "matched reference", "matched", "level", "last", "model"]


class Retention(BaseModel):
    """What a checkpoint still knows, asked in one way.

    Attributes:
        mc1, mc2: Means over questions.
        margin: Mean log-likelihood of true minus false choices, in nats.
        shift: Mean absolute change of a choice's log-likelihood from the base, in nats; None for the base.
        shift_centred: The same less what all choices of a question moved by together, which changes no ranking; a mean
            over questions. None for the base, and in runs before it was measured.
        delta_mc1, delta_mc2: Against the base, paired by question; None for the base.
        scores_file: Row by row, relative to the run folder.
    """

    mc1: float
    mc2: float
    margin: float
    shift: float | None
    shift_centred: float | None = None
    delta_mc1: Difference | None
    delta_mc2: Difference | None
    scores_file: str

    @property
    def moved(self) -> float | None:
        """How far answers moved: centred where that was measured."""
        return self.shift if self.shift_centred is None else self.shift_centred


class Accuracy(BaseModel):
    """Right answers to a multiple-choice set, asked in one way.

    Attributes:
        acc, acc_norm: Shares of questions, by log-likelihood and by log-likelihood per character.
        margin: Mean margin of the right choice over the best wrong one, in nats per character.
        delta_acc_norm: Against the base, paired by question; None for the base.
        file: Row by row, relative to the run folder.
    """

    acc: float
    acc_norm: float
    margin: float
    delta_acc_norm: Difference | None
    file: str


class TextDrift(BaseModel):
    """Predictions on general text.

    Attributes:
        kl: Mean divergence from the base, in nats per token.
        perplexity: Of the texts.
        file: Text by text, relative to the run folder.
    """

    kl: float
    perplexity: float
    file: str


class CallAccuracy(BaseModel):
    """Whether generated calls are right; shares of ``wanted_asked`` and of ``unwanted_asked`` requests.

    Attributes:
        parses, functions, right: Of requests that want a call: it can be read in the taught format, names the right
            functions (in whatever format), is right.
        refrains: Of requests that none of the offered tools fits: declined in prose. None when there are none.
        wanted_asked, unwanted_asked: Requests.
        outcomes, unwanted_outcomes: How often each outcome came (``tasks.calls.judging``); none in runs before 0.2.
        file: Every answer with its verdict, relative to the run folder.
    """

    parses: float
    functions: float
    right: float
    refrains: float | None
    wanted_asked: int
    unwanted_asked: int
    outcomes: dict[Outcome, int] = {}
    unwanted_outcomes: dict[Outcome, int] = {}
    file: str


class Measurement(BaseModel):
    """One row of the experiment's table: a checkpoint with what it learned and what it still knows.

    Attributes:
        arm: Arm, or ``base``.
        role: Why this checkpoint was scored: as one of a matched pair at the deepest level or (``level``) at another,
            or as the last of the reference; ``model``: one that was trained elsewhere.
        matched_with: For a matched reference: the arm that it is matched to.
        seed: Of the arm; None for the base.
        step: Optimizer steps.
        between: Of an adapter that was mixed from two stops: which ones; ``step`` is the nearest.
        eval_loss_whole, eval_loss_answer: Nats per token.
        retention: For each way of asking (``study.truthfulqa.prompts``).
        accuracy: For each choice set and way of asking; empty when the study does not ask, and at a ``level``.
        drift: On general text; None when the study does not ask.
        calls: Whether generated calls are right; None when the study does not ask, and at a ``level``.
    """

    arm: str
    role: Role
    matched_with: str | None = None
    seed: int | None
    step: int
    between: Between | None = None
    eval_loss_whole: float
    eval_loss_answer: float
    retention: dict[PromptName, Retention]
    accuracy: dict[str, dict[PromptName, Accuracy]] = {}
    drift: TextDrift | None = None
    calls: CallAccuracy | None = None

    @property
    def stop(self) -> tuple[int, str]:
        """Tells the stops of a run apart; those that are mixtures may share a step."""
        return self.step, "" if self.between is None else str(self.between)


class Comparison(BaseModel):
    """One arm against the reference at matched eval loss, over all seeds in which it was reached.

    Attributes:
        arm, reference: Names.
        reached: Seeds in which the arm came down to some checkpoint of the reference.
        missed: Seeds in which it never did.
        apart: For each seed in ``reached`` the arm's eval loss at the pair over the reference's, less 1; empty in runs
            before it was kept. Pairs within 5% are equal.
        why_apart: For each seed whose pair is not within 5%: why it could not be brought nearer.
        mc1, mc2: Arm minus reference at the matched pair for each way of asking; empty if never reached.
        shift: The same for how far the log-likelihoods of a question's choices moved from the base's, in nats.
        shift_centred: The same, centred by question; empty in runs before it was measured.
        accuracy: The same for ``acc_norm`` of each choice set.
        drift: The same for the divergence from the base on general text, in nats per token.
        right_calls, declines: The same for the share of requests that get the right call, and of those that no tool
            fits and that are declined in prose; None where none were asked, and in runs before it was measured.
        area: Arm minus reference in the mean MC2 on the way down from the base to the matched loss, by the logarithm of
            the loss; empty unless the study matches at several levels.
    """

    arm: str
    reference: str
    reached: list[int]
    missed: list[int]
    apart: dict[int, float] = {}
    why_apart: dict[int, str] = {}
    mc1: dict[PromptName, Difference]
    mc2: dict[PromptName, Difference]
    shift: dict[PromptName, Difference]
    shift_centred: dict[PromptName, Difference] = {}
    accuracy: dict[str, dict[PromptName, Difference]] = {}
    drift: Difference | None = None
    right_calls: Difference | None = None
    declines: Difference | None = None
    area: dict[PromptName, Difference] = {}

    @property
    def moved(self) -> dict[PromptName, Difference]:
        """How far answers moved: centred where that was measured."""
        return self.shift_centred or self.shift


class ChoiceSetAccount(BaseModel):
    """A multiple-choice set: what it must be called, its size, what guessing gives, where it came from."""

    label: str
    asked: int
    chance: float
    source: Provenance
    dropped: dict[str, int]


class DataAccount(BaseModel):
    """What became of every row of data and every question.

    Attributes:
        train_examples, eval_examples: Texts that are trained and held out.
        too_long: Learnt turns that end behind ``max_length``.
        left_out: What is not learnt, by kind (rows, turns, calls, texts) and reason, with its count and first place.
        remarks: What is learnt but may not be meant, in sentences.
        format: How the rows are written.
        rendering: How conversations are written for the base, in words.
        rows, conversations: In the data, held-out ones included.
        learnt_turns, learnt_calls, train_tokens: Of the training examples.
        held_out_turns, held_out_calls: Of the held-out ones.
        skipped, dropped: The account of runs before 0.2.
    """

    train_examples: int
    eval_examples: int
    too_long: int
    left_out: list[LeftOut] = []
    remarks: list[str] = []
    format: str = ""
    rendering: str = ""
    rows: int = 0
    conversations: int = 0
    learnt_turns: int = 0
    learnt_calls: int = 0
    held_out_turns: int = 0
    held_out_calls: int = 0
    skipped: list[dict[str, str]] = []
    dropped: dict[str, int] = {}
    train_tokens: int
    data: Provenance
    questions: Provenance
    question_label: str
    questions_asked: int
    questions_dropped: dict[str, int]
    choice_sets: dict[str, ChoiceSetAccount] = {}
    texts_label: str | None = None
    texts: Provenance | None = None


class RunProvenance(BaseModel):
    """On what and with what a study was run."""

    versions: dict[str, str]
    hardware: Hardware
    threads: int
    commit: str | None
    base: Provenance
    created: str


class Results(BaseModel):
    """A finished study.

    Attributes:
        trajectories: Every arm with every seed.
        trials: Runs of the first seed with learning rates that were tried and not taken.
        measurements: The table's rows.
        comparisons: Each arm against the reference.
        seconds: Wall time by phase.
        finding: In words.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    schema_version: Literal[2] = SCHEMA_VERSION
    study: Study
    provenance: RunProvenance
    data: DataAccount
    trajectories: list[Trajectory]
    trials: list[Trajectory] = []
    measurements: list[Measurement]
    comparisons: list[Comparison]
    seconds: dict[str, float]
    finding: str
