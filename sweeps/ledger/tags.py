"""What MLflow keeps as text and we know as numbers: every tag is written and read by functions that stand together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmpo_train.trial.orders import BY_PERSON

HARDWARE = "trial.hardware"
TRAINING = "trial.training"
"""Name of a trial's training, which trials that differ in their score alone share."""
SHARED, SHARED_RUN = "shares.trial", "shares.run"
"""Tags of a trial that was not trained: the trial whose training it shares, and that trial's run, with the curves."""
DO, DONE, REFUSED = "do", "done", "refused"
"""Tags of a trial: what a person asks of it, and in its place what was done, or why it was not."""
CLONED_IN = "cloned.in"
"""Tag of a clone: the run of the stage in which it was made."""
STOP, GO, CLONE, EXTEND = "stop", "go", "clone", "extend"
"""What can be asked: the first word of the tag DO."""
WINNER_BY = "winner.by"
"""Tag of a stage: the metric of its choice, as --choose-by names it."""
_SECONDS = "trial.seconds"
_BASELINE_POLICY, _BASELINE_REWARD = "baseline.policy_accuracy", "baseline.reward_accuracy"


@dataclass(frozen=True)
class Hardware:
    """What a trial runs on, as text `2 x H100`, `0.25 x H100` or `1 x CPU`."""

    count: float
    """Of GPUs, below 1 for a share of one; on CPUs of workers."""
    kind: str
    """CPU, or the types of its GPUs as Ray names them; GPU where they are not known."""

    @property
    def gpus(self) -> float:
        return 0 if self.kind == "CPU" else self.count

    def __str__(self) -> str:
        return f"{self.count:g} x {self.kind}"


def hardware_of(tags: Mapping[str, str]) -> Hardware | None:
    """What the tag HARDWARE of a trial says; None where nobody wrote it down."""
    count, _, kind = tags.get(HARDWARE, "").partition(" x ")
    return Hardware(float(count), kind) if kind else None


@dataclass(frozen=True)
class Baseline:
    """What the starting model scores on the validation pairs."""

    policy_accuracy: float
    """By plain log-probabilities."""
    reward_accuracy: tuple[float, ...] = ()
    """By the objectives' own scores: one number, or the lowest and the highest over the points; empty if not known."""

    @property
    def line(self) -> float | None:
        """The reward accuracy, where it is one number."""
        return self.reward_accuracy[0] if len(self.reward_accuracy) == 1 else None

    def tags(self) -> dict[str, str]:
        """Tags of a stage; `baseline_of` reads them."""
        own = {_BASELINE_REWARD: " to ".join(map(str, self.reward_accuracy))} if self.reward_accuracy else {}
        return {_BASELINE_POLICY: str(self.policy_accuracy), **own}


def baseline_of(tags: Mapping[str, str]) -> Baseline | None:
    """None where no trial of the stage was trained yet."""
    if _BASELINE_POLICY not in tags:
        return None
    own = tags.get(_BASELINE_REWARD, "")
    return Baseline(float(tags[_BASELINE_POLICY]), tuple(float(one) for one in own.split(" to ") if one))


def winner_tags(
    field: str, value: Any, epoch: int, reward_accuracy: float, reason: str, by: str = ""
) -> dict[str, Any]:
    """Tags of a stage with a winner by rule; `winner_of` reads its value. An empty `by` is reward accuracy."""
    numbers = {f"winner.{field}": value, "winner.epoch": epoch, "winner.reward_accuracy": reward_accuracy}
    return {**numbers, "winner.reason": reason, WINNER_BY: by or "reward_accuracy"}


def winner_of(tags: Mapping[str, str], field: str) -> float | None:
    """The value of a tuned field that a stage chose by rule; None where there is none."""
    value = tags.get(f"winner.{field}")
    return None if value is None else float(value)


def ending_tags(state: str, reason: str, seconds: float | None) -> dict[str, Any]:
    """Tags of a trial that ended; `seconds_of` reads its time."""
    tags = {"trial.state": state, "trial.reason": reason, _SECONDS: seconds}
    return {name: value for name, value in tags.items() if value not in ("", None)}


def is_held(tags: Mapping[str, str]) -> bool:
    """Whether a person has stopped the trial, and nobody has asked since that it goes on."""
    by_person = tags.get("trial.state") == "stopped" and tags.get("trial.reason", "").startswith(BY_PERSON)
    return by_person and tags.get(DO, "").strip() != GO


def seconds_of(tags: Mapping[str, str]) -> float | None:
    """How long a trial worked; None where it did not come to its end."""
    return float(tags[_SECONDS]) if _SECONDS in tags else None
