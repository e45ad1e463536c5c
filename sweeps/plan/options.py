"""The command-line options that all sweeps share."""

import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from eval_workers.settings import EvaluationSettings
from mmpo_train.options import Assignments, NotTaken, Options, Repeated
from mmpo_train.sft.trial import SFTTrial

RUNNER: Any = os.environ.get("MMPO_RUNNER") or "ray"
"""Who trains unless --runner says otherwise."""


@dataclass(frozen=True, kw_only=True)
class SweepEvaluation(EvaluationSettings):
    """Settings of the evaluations, and of the Ray actors that run them beside the trials."""

    actors_per_suite: int = 1
    """Actors that run each evaluation; they share the checkpoints between them."""
    gpus_per_actor: float = 0.1
    """GPUs of each evaluation actor. With less than 1 the actors share the training GPUs, with 1 or more each has its
    own, with 0 they run on the head's CPUs."""
    accelerator: str = ""
    """GPU type of the evaluation actors, such as L4. Default: the type that the trials use."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """The options of every sweep."""

    workers_per_trial: int = 0
    """DeepSpeed workers of each trial, all on one node: GPUs, or CPU cores on a machine without GPUs. Default: as many
    as the recipe has; on a single machine that has fewer, as many as fit."""
    min_workers_per_trial: int = 0
    """Let a trial start, or continue after it has lost a node, with this many workers while no node has room for all;
    its results stay the same. Default: a trial waits for all its workers."""
    accelerator: str = ""
    """GPU type of the workers as Ray names it, such as L40S. L40 allows L40 and L40S, any allows every type. Default:
    the recipe's type on a cluster, any on a single machine."""
    gpus_per_worker: float = 1.0
    """GPUs of each worker. A share, such as 0.25, lets several trials of one worker run on one GPU, each within that
    share of its memory."""
    concurrent_trials: int = 0
    """The most trials that may run at the same time. Default: as many as fit."""
    seeds: int = 1
    """Run each trial N times, with the seeds --seed, --seed+1, and so on."""
    choose_by: str = "reward_accuracy"
    """Metric by which a stage chooses its winner: reward_accuracy (the paper's), policy_accuracy, logratio_accuracy, or
    one of an evaluation that is asked for, such as alpaca/lc_win_rate or harness/mean_accuracy."""
    train_all: bool = False
    """Train every trial. Default: of trials that differ only in fields without effect on the gradient, and so have the
    same model, one is trained and the others are scored from its checkpoints."""
    tracking_uri: str = ""
    """MLflow server or database. Default: the value of MLFLOW_TRACKING_URI, or mlflow.db in the storage."""
    evaluation: SweepEvaluation = SweepEvaluation()
    """Settings of the evaluations that --set evaluations=reward,harness,alpaca,arena names."""
    price_per_gpu_hour: float | None = None
    """Price of one GPU for one hour, in any currency. Default: the forecast has no price."""
    dry_run: bool = False
    """Preview: list the trials, the resources that each needs and what they will cost, and start nothing."""
    runner: Literal["ray", "process"] = RUNNER
    """ray: run trials in parallel, on this machine or on a cluster. process: run them one after the other in the
    command's own process, without Ray, where breakpoints work. Default: the value of MMPO_RUNNER, or ray."""
    verbose: bool = False
    """Show the libraries' own logs."""


@dataclass(frozen=True, kw_only=True)
class SFTOptions(SweepOptions):
    """Stage 0: instruction-tune a starting model. By default it tunes tiny."""

    trial: ClassVar[type] = SFTTrial
    of_recipe: ClassVar[bool] = False

    model: str = "tiny"
    """Pre-trained model: tiny (random weights), a folder with tokenizer and chat template, or a hub id."""
    recipe: str = ""
    """Data, epochs and learning rate to start from: tiny, smollm2-135m, smollm2-360m, llama-3.2-1b, llama-3-8b or any.
    Default: the recipe of the hub id, else any. The tuned model's folder records it, and later stages use it."""
    dataset: Annotated[tuple[str, ...], Repeated] = ()
    """Conversations, as SOURCE[#CONFIG][:TRAIN_SPLIT[:VALIDATION_SPLIT]]; SOURCE is a file, a folder or a hub id.
    Repeat the option to mix sources. Default: the data of the recipe."""
    seed: int = 42
    """Seed of the order of the conversations."""
    set: Assignments = ()
    """Change another field of the tuning, such as learning_rate=1e-4. Repeat the option for more fields;
    docs/options.md lists them."""
    objective: Annotated[str, *NotTaken] = "mmpo"
    settings: Annotated[str, *NotTaken] = "paper"
    show_examples: Annotated[int, *NotTaken] = 0
    concurrent_trials: Annotated[int, *NotTaken] = 1
    seeds: Annotated[int, *NotTaken] = 1
    choose_by: Annotated[str, *NotTaken] = "reward_accuracy"
    train_all: Annotated[bool, *NotTaken] = False
    evaluation: Annotated[SweepEvaluation, *NotTaken] = SweepEvaluation()
