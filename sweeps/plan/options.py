"""The command-line options that all sweeps share, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from eval_workers.suites import EvaluationSettings
from mmpo_train.options import STORAGE, Assignments, Options, Repeated, Stored


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """What every stage script takes."""

    workers_per_trial: int = 0
    """DeepSpeed workers of one trial, on one node: GPUs, or CPU cores where there is none. Default: the recipe's; on a
    single machine that has fewer, as many as fit."""
    min_workers_per_trial: int = 0
    """Trials are elastic: they begin, and after a lost node go on, with as few workers while a node has no room for
    more. The same results, later. 0: they wait for all."""
    accelerator: str = ""
    """Type of the workers' GPUs as Ray names it, such as L40S; L40 takes L40 or L40S, any takes what there is. Default:
    the recipe's on a cluster, any on a single machine."""
    concurrent_trials: int = 0
    """Trials that run at a time; 0 for as many as fit."""
    seeds: int = 1
    """Every trial so many times, with --seed and the ones after it."""
    tracking_uri: str = ""
    """MLflow server or database. Default: MLFLOW_TRACKING_URI, or <storage>/mlflow.db."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the evaluators work that --set evaluations=reward,harness,alpaca,arena names."""
    price_per_gpu_hour: float | None = None
    """What an hour of one GPU costs, in any currency, for the forecast."""
    dry_run: bool = False
    """List the trials, what each asks for and what they will cost; start nothing."""
    verbose: bool = False
    """Let the libraries speak."""


@dataclass(frozen=True, kw_only=True)
class SFTOptions(Stored):
    """Stage 0: instruction-tune a starting model. Without arguments it tunes `tiny` from random weights on its own."""

    model: str = "tiny"
    """Pre-trained model: 'tiny' (random weights), a folder with tokenizer and chat template, or a hub id."""
    recipe: str = ""
    """Data, epochs and learning rate to start from: tiny, smollm2-135m, smollm2-360m, llama-3.2-1b, llama-3-8b, any.
    Default: the recipe of the hub id. Folders of the tuned model name it, so that sweeps find it."""
    dataset: Annotated[tuple[str, ...], Repeated] = ()
    """Conversations: a file, a folder or a hub id, as SOURCE[:TRAIN_SPLIT[:VALIDATION_SPLIT]]. Repeat it for a mixture.
    Default: the recipe's, or tiny's own."""
    seed: int = 42
    """Order of the conversations."""
    storage: str = STORAGE
    """Where everything is kept that is made: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH."""
    set: Assignments = ()
    """Any other field of the tuning, such as learning_rate=1e-4; they are listed in mmpo_train/sft/trial.py."""
    workers_per_trial: int = 0
    """DeepSpeed workers, on one node: GPUs, or CPU cores where there is none. Default: the recipe's; on a single
    machine that has fewer, as many as fit."""
    accelerator: str = ""
    """Type of the workers' GPUs as Ray names it, such as L40S; L40 takes L40 or L40S, any takes what there is. Default:
    the recipe's on a cluster, any on a single machine."""
    tracking_uri: str = ""
    """MLflow server or database. Default: MLFLOW_TRACKING_URI, or <storage>/mlflow.db."""
    price_per_gpu_hour: float | None = None
    """What an hour of one GPU costs, in any currency, for the forecast."""
    strict: bool = False
    """Refuse data with any unusable row."""
    drop_bad_rows: bool = False
    """Leave out and count rows that would be refused."""
    dry_run: bool = False
    """Say what would be tuned and what it will cost; start nothing."""
    verbose: bool = False
    """Let the libraries speak."""
