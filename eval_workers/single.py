"""Evaluation of a single checkpoint or model: what it is, what it is compared with, and on which data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_workers.settings import EvaluationSettings
from eval_workers.suites import FOLDERS, build
from mmpo_train.config import TRIAL, TrialConfig, digest_of, replace
from mmpo_train.errors import InputError
from mmpo_train.metric_names import VALIDATION
from mmpo_train.model.folders import fingerprint, local_folder
from mmpo_train.recipes import recipe_for
from mmpo_train.storage.object_store import is_address
from mmpo_train.trial.checkpoint import read_trial

if TYPE_CHECKING:
    from eval_workers.options import EvaluateOptions
    from mmpo_train.prepare import Inputs


@dataclass(frozen=True)
class Subject:
    """A checkpoint or model to evaluate."""

    path: str
    """The path as it was given."""
    name: str
    folder: Path
    config: TrialConfig
    """Config of the checkpoint's trial; for any other model, that of its recipe."""
    trained: bool
    """Whether it is a checkpoint of a trial."""
    inputs: Inputs
    """Starting model and data."""
    output: Path

    @staticmethod
    def of(path: str, options: EvaluateOptions) -> Subject:
        """The subject at a path. Raises InputError if there is no such model, or its data cannot be read."""
        import torch

        from mmpo_train.prepare import build_starting_model, identify

        given = local_folder(path) if is_address(path) else Path(path).expanduser()
        trained = (given / TRIAL).is_file()
        if trained:
            config = read_trial(given)
        else:
            precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
            config = replace(recipe_for(path), {"objective": "dpo", "precision": precision, "pairs_per_step": 1})
        if options.dataset:
            config = replace(config, {"dataset": options.dataset})
        if options.starting_model:
            config = replace(config, {"model": options.starting_model})
        inputs = identify(config, options.folder)
        if inputs.config.model == "tiny":
            build_starting_model(inputs, lambda what, share: None)
        folder = given if trained else inputs.model_folder if path == "tiny" else local_folder(path)
        parent = f"{folder.parent.parent.name}-" if trained else ""
        name = f"{parent}{Path(path).name}"
        output = options.output / f"{name}-{digest_of(str(folder.resolve()))[:8]}"
        output.mkdir(parents=True, exist_ok=True)
        return Subject(path, name, folder, config, trained, inputs, output)


def evaluate(subject: Subject, suite: str, options: EvaluateOptions) -> dict[str, Any]:
    """The results of one suite, as `suites.Evaluate` describes them. Raises InputError if the suite cannot run."""
    if suite == "reward":
        if not (subject.trained or options.dataset or subject.inputs.config.model == "tiny"):
            raise InputError(f"reward needs preference data for {subject.path}: give --dataset SOURCE")
        return {"metrics": _reward(subject)}
    settings = EvaluationSettings(**options.plain())
    tiny = subject.inputs.config.model == "tiny"
    run = _warm(suite, settings, options.folder, tiny=tiny, precision=subject.config.precision)
    folders = subject.folder, subject.inputs.model_folder, subject.output
    return run(dict(zip(FOLDERS, map(str, folders), strict=True)))


def judged(subject: Subject, options: EvaluateOptions, facts: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A digest of all that the scores depend on, wherever the model lies; and params that say what was asked. `facts`:
    what the evaluations said of themselves, such as their tasks' versions."""
    given = {name: value for name, value in options.plain().items() if value != getattr(EvaluationSettings, name)}
    asked = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}
    asked |= {"suites": ",".join(sorted(options.suite)), **facts}
    model, inputs = fingerprint(subject.folder, options.folder / "fingerprints.json"), subject.inputs.config
    key = digest_of([asked, model, inputs.model_fingerprint, inputs.data_fingerprint])
    return key, {"path": subject.path, **asked}


# One object for all subjects of a command, so that models, tasks and judges stay warm.
_warm = cache(build)


@cache
def _reward_accuracy() -> Any:
    from eval_workers.reward_accuracy import RewardAccuracy

    return RewardAccuracy()


def _reward(subject: Subject) -> dict[str, float]:
    from mmpo_train.config import to_dict
    from mmpo_train.model.reference import in_process
    from mmpo_train.prepare import materialise

    places, _ = materialise(subject.inputs, in_process, lambda what, share: None)
    tokens, reference = str(places.tokens), str(places.reference)
    if subject.trained:
        return _reward_accuracy()(str(subject.folder), tokens, reference)["metrics"]
    if subject.folder.resolve() != subject.inputs.model_folder.resolve():
        raise InputError(
            f"{subject.path} is not a checkpoint of a trial, so only its own log-probabilities can be scored; leave "
            "out --starting-model"
        )
    # The model is its own reference, so only plain log-probabilities say anything.
    scores = _reward_accuracy().starting_model(to_dict(subject.config), tokens, reference)
    kept = ("policy_accuracy", "chosen_logps", "rejected_logps")
    return {f"{VALIDATION}{name}": scores[name] for name in kept}
