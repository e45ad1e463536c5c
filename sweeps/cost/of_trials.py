"""The numbers behind a forecast (model, data and earlier trials), and the real cost of trials."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eval_workers.tracking.store import param_number, param_text
from mmpo_train.config import OBJECTIVE_FIELDS, TrialConfig
from mmpo_train.errors import InputError
from mmpo_train.metric_names import TOKENS_PER_SECOND
from mmpo_train.model.folders import weight_files
from mmpo_train.recipes import find_recipe
from mmpo_train.sft.trial import SFTTrial
from sweeps.cluster.placement import TrialResources, hardware
from sweeps.cost.arithmetic import (
    ONLINE,
    Forecast,
    Lengths,
    ModelSize,
    Work,
    elapsed,
    measured_speed,
    modelled_speed,
    reference_flop,
    timed_speed,
    work_of,
)
from sweeps.cost.evaluations import Part, evaluation_work
from sweeps.ledger.experiments import experiment_of
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.records import TrialRecord
from sweeps.ledger.tags import CLONED_IN, HARDWARE, Hardware, seconds_of
from sweeps.plan.options import SweepOptions

if TYPE_CHECKING:
    from mmpo_train.training import AnyInputs

_LATEST = 8
"""The speed is taken from at most this many finished trials, the latest ones."""
_SAME_FIELDS = {
    TrialConfig: ("model_fingerprint", "data_fingerprint", "precision", "lora_rank"),
    SFTTrial: ("model_fingerprint", "data_fingerprint", "precision", "max_tokens", "turns"),
}
"""Fields that two trials must share for the speed of one to predict that of the other."""
_SPEED_FIELDS = {
    TrialConfig: ("epochs", "pairs_per_step", "validate_every_steps"),
    SFTTrial: ("epochs", "conversations_per_step", "validate_every_steps"),
}
"""Further fields that determine the work of a trial."""
PARAMETERS = {
    "tiny": (1_000_000, 3, 160),
    "smollm2-135m": (134_515_008, 30, 576),
    "smollm2-360m": (361_821_120, 32, 960),
    "llama-3.2-1b": (1_235_814_400, 16, 2048),
    "llama-3-8b": (8_030_261_248, 32, 4096),
}
"""Recipe -> parameters, layers and width, for a model whose weights are not on this machine yet."""


class ToTrain(Protocol):
    """A trial to train, and its inputs, which many trials share."""

    @property
    def config(self) -> TrialConfig | SFTTrial: ...

    @property
    def inputs(self) -> AnyInputs: ...


def forecast_trials(
    todo: Sequence[ToTrain],
    options: SweepOptions,
    resources: TrialResources,
    ledger: Ledger | None,
    *,
    prepared: bool = False,
    judge: str = "",
) -> Forecast:
    """The expected cost of these trials, from finished trials of the same model, data and hardware, or from FLOP
    (on this machine's CPU by those that a layer of the model reaches in half a second).

    Trials that continue from a checkpoint are counted in full. Evaluations, by FLOP at the same rate, are counted as
    far as `evaluation_work` knows them. The reference model's pass is counted unless it exists or is `prepared`.
    """
    from mmpo_train.prepare import has_reference
    from sweeps.cost.lengths import lengths_of  # imports numpy

    kind = "GPU" if resources.use_gpu else "CPU"
    if not todo:
        return Forecast(0, 0, 0.0, 0.0, kind, "nothing to train", options.price_per_gpu_hour, resources.place)
    inputs, first = todo[0].inputs, todo[0].config
    accelerators = resources.accelerators
    size = read_size(inputs.model_folder, find_recipe(options.model, options.recipe).name)
    train, validation, counted = lengths_of(inputs)
    works = [work_on(size, train, validation, one.config) for one in todo]
    measured: list[tuple[float, float, Work]] = []
    if ledger is not None:
        same = {name: getattr(first, name) for name in _SAME_FIELDS[type(first)]}

        def work_in(params: Mapping[str, str]) -> Work:
            fields: dict[str, Any] = {name: int(param_number(params, name)) for name in _SPEED_FIELDS[type(first)]}
            return work_on(size, train, validation, dataclasses.replace(first, **fields))

        measured = finished_trials(ledger, experiment_of(ledger, inputs), same, hardware(resources), work_in)
    if measured:
        speed = measured_speed(measured)
    else:  # by the FLOP of the work
        if resources.use_gpu or resources.place != "this machine":
            speed = modelled_speed(works[0], resources.gpu_types if resources.use_gpu else ("CPU",), accelerators)
        else:
            from mmpo_train.model.layer_speed import layer_flop_per_second  # imports torch

            shape = size.parameters, size.layers, size.width
            a_worker = layer_flop_per_second(*shape, first.precision, resources.cpus_per_worker)
            speed = timed_speed(works[0], a_worker, resources.workers)
        speed = dataclasses.replace(speed, source=f"{speed.source}; {counted}")
    seconds = [speed.seconds(work) for work in works]
    parts: dict[str, Part] = {}
    if isinstance(first, TrialConfig):
        parts = evaluation_work(todo, options.evaluation, size, validation, judge)  # type: ignore[arg-type]
        if not (prepared or has_reference(inputs)):  # type: ignore[arg-type]
            parts["reference pass"] = Part(reference_flop(size, train.first(_completions(first)), validation))
    per_second = speed.tokens_per_second * works[0].training_flop / works[0].tokens
    if measured:  # trials have waited for their answers
        parts.pop(ONLINE, None)
    hours = {name: (part.flop / per_second * accelerators + part.seconds) / 3600 for name, part in parts.items()}
    beside = sum(hours.values())
    return Forecast(
        len(todo),
        sum(work.steps for work in works),
        sum(seconds) * accelerators / 3600 + beside,
        elapsed(seconds, resources.concurrent) + beside * 3600 / accelerators / resources.concurrent,
        kind,
        speed.source,
        options.price_per_gpu_hour,
        resources.place,
        hours,
        sum(one.config.epochs for one in todo) if hours else 0,
    )


def hours_of(records: Mapping[str, TrialRecord], digests: Sequence[str], accelerators: float) -> float | None:
    """Accelerator-hours, or core-hours, that these trials took; None if one of them has not finished."""
    seconds = [records[digest].seconds if digest in records else None for digest in digests]
    known = [one for one in seconds if one is not None]
    return sum(known) * accelerators / 3600 if known and len(known) == len(seconds) else None


def work_on(size: ModelSize, train: Lengths, validation: Lengths, trial: TrialConfig | SFTTrial) -> Work:
    """The work of one trial on a dataset."""
    config = trial.engine_config() if isinstance(trial, SFTTrial) else trial
    return work_of(
        size,
        train.first(_completions(config)),
        validation.first(2),
        epochs=config.epochs,
        pairs_per_step=config.pairs_per_step,
        validate_every_steps=config.validate_every_steps,
        lora=config.lora_rank > 0,
    )


def _completions(trial: TrialConfig) -> int:
    """Completions of a prompt in one step; all of them for MMPO's Eq. 4."""
    if trial.objective == "mmpo":
        return 1_000
    return trial.negatives + 1 if "negatives" in OBJECTIVE_FIELDS[trial.objective] else 2


def finished_trials(
    ledger: Ledger,
    experiment: str,
    same: Mapping[str, Any],
    ran_on: Hardware,
    work_in: Callable[[Mapping[str, str]], Work],
) -> list[tuple[float, float, Work]]:
    """Tokens per second, seconds and work of the latest trials that finished with the `same` params on this hardware.

    `work_in` computes the work from a run's params.
    """
    tags = {"ledger.kind": "trial", "trial.state": "finished", HARDWARE: str(ran_on)}
    with ledger.store.reading():
        runs = ledger.store.search(ledger.store.experiment_id(experiment, create=False), tags)
    wanted = {name: param_text(name, value) for name, value in same.items()}
    found: list[tuple[float, float, Work]] = []
    for run in reversed(runs):
        tags = run.data.tags
        params, seconds = run.data.params, 0.0 if CLONED_IN in tags else seconds_of(tags) or 0.0  # a part of a training
        if seconds <= 0 or {name: params.get(name) for name in wanted} != wanted or len(found) == _LATEST:
            continue
        curve = [value for _, value in ledger.curve(run.info.run_id, TOKENS_PER_SECOND)]
        if curve:
            found.append((statistics.median(curve), seconds, work_in(params)))
    return found


def read_size(folder: Path, recipe: str = "") -> ModelSize:
    """A model's size from config.json and the headers of its safetensors files; no weights are read.

    Without these files it is the known size of the recipe's model. Raises InputError if that is unknown too.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        config = config.get("text_config", config)
        parameters = sum(_parameters(path) for path in weight_files(folder))
        heads = config.get("num_attention_heads") or config["n_head"]
        width = heads * config["head_dim"] if config.get("head_dim") else config.get("hidden_size") or config["n_embd"]
        layers = config.get("num_hidden_layers") or config["n_layer"]
    except (OSError, ValueError, KeyError):
        parameters = 0
    if parameters:
        return ModelSize(parameters, int(layers), int(width))
    if recipe not in PARAMETERS:
        raise InputError(f"{folder} has no config.json and safetensors weights, so the model's size cannot be read")
    return ModelSize(*PARAMETERS[recipe])


def _parameters(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
