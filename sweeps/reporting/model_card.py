"""A model card of a checkpoint, from the ledger. The door to huggingface_hub's cards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train import metric_names as keys
from mmpo_train.config import TrialConfig, identity
from mmpo_train.errors import InputError
from mmpo_train.model.folders import model_files
from mmpo_train.redaction import masked
from mmpo_train.storage.mirror import need
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tables import Table, as_markdown
from mmpo_train.terminal import print_text
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.tags import baseline_of
from sweeps.reporting.compare import Checkpoint, checkpoint_of
from sweeps.reporting.numbers import own_error
from sweeps.reporting.read import config_of, judged_alone

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_TEXT = """---
{metadata}
---

# {name}

{model} trained on {dataset} with {objective}{paper}, {epoch} of {epochs} epochs, by mmpo-sweeps. {licence}

```python
{snippet}
```

## Scores

{scores}

{missing}

## Training

{settings}

The trial's digest is `{digest}`, its run in MLflow `{run}`. Trained with {versions}.
"""
_PAPERS = {"mmpo": " (Najafi & Fyshe 2025)", "dpo": " (Rafailov et al. 2023)", "simpo": " (Meng et al. 2024)"}
_SUITES = {"LM Harness": keys.HARNESS_MEAN, "AlpacaEval 2": keys.ALPACA, "Arena-Hard": keys.ARENA_WIN_RATE}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SNIPPET = """from transformers import AutoTokenizer
from {library} import {model}

model = {model}.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
question = [{{"role": "user", "content": "What is 3 plus 4?"}}]
inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))"""


def write_card(
    ledger: Ledger, spec: str, folder: Path, push_to_hub: str = "", licence: str = "", with_checkpoint: bool = False
) -> Path:
    """Writes the card of RUN or RUN:EPOCH to README.md in `folder` and returns its path.

    It goes to the hub only where a repository is named, and the checkpoint only `with_checkpoint`; a repository that is
    made for it is private. Raises InputError where the run has no such checkpoint, or the hub does not take the card;
    the local one is there then.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    one = checkpoint_of(ledger, spec)
    card = ModelCard(card_text(ledger, one, push_to_hub, licence), ignore_metadata_errors=False)
    path = folder / "README.md"
    write_whole(path, str(card))
    if push_to_hub:
        try:
            if with_checkpoint:
                push_checkpoint(one, push_to_hub)
            where = card.push_to_hub(push_to_hub, commit_message="Model card from mmpo-sweeps")
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            raise InputError(f"the hub did not take the card for {push_to_hub}: {masked(str(error))[:400]}") from None
        print_text(f"pushed: {masked(str(where))}")
    return path


def push_checkpoint(one: Checkpoint, repository: str) -> None:
    """Upload the model's own files, and nothing else that lies in the checkpoint's folder."""
    from huggingface_hub import HfApi

    [name] = [scored.checkpoint for scored in one.trial.record.evaluations if scored.epoch == one.epoch]
    folder = need(name)
    files = [path.name for path in model_files(folder)]
    api = HfApi()
    api.create_repo(repository, private=True, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=files, commit_message="Checkpoint")


def card_text(ledger: Ledger, one: Checkpoint, repository: str = "", licence: str = "") -> str:
    """Metadata with the evaluations, and what a reader wants to know: `repository` is the name in the snippet."""
    from huggingface_hub import ModelCardData

    config = config_of(one.trial.record.config)
    name = f"{Path(config.model).name}-{config.objective}-{one.trial.record.digest[:8]}-epoch-{one.epoch}"
    library, door = ("peft", "AutoPeft") if config.lora_rank else ("transformers", "Auto")
    door += "ModelForCausalLM"
    data = [place for given in config.dataset if _on_hub(place := re.split("[:#]", given)[0])]
    results = evaluations(one, config)
    started = _starting_model(ledger, one)
    metadata = ModelCardData(
        license=licence or None,
        base_model=config.model if _on_hub(config.model) else None,
        datasets=data or None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["preference-optimisation", config.objective],
        model_name=name,
        eval_results=results,
    )
    lacking = [called for called, metric in _SUITES.items() if not _measured(one, metric)]
    environment = ledger.json_artifact(one.trial.record.run_id, "environment.json") or {}
    versions = environment.get("packages", {})
    settings = [(field, _value(value)) for field, value in identity(config).items()]
    scores = []
    for result in results:
        error, _ = own_error(one.trial, result.metric_type, one.epoch)
        beside = ("" if value is None else f"{value:.4f}" for value in (error, started.get(result.metric_type)))
        scores.append((str(result.task_name), str(result.metric_name), f"{result.metric_value:.4f}", *beside))
    headers = ("task", "metric", "value", "standard error", "starting model")
    return _TEXT.format(
        metadata=metadata.to_yaml(),
        name=name,
        model=f"`{_short(config.model)}`",
        dataset=" and ".join(f"`{_short(source)}`" for source in config.dataset),
        licence=f"Licence: {licence}." if licence else "No licence is given here: those of model and data apply.",
        snippet=_SNIPPET.format(library=library, model=door, name=repository or "FOLDER"),
        objective=config.objective,
        paper=_PAPERS.get(config.objective, ""),
        epoch=one.epoch,
        epochs=config.epochs,
        scores=as_markdown(Table("", headers, scores, words=(0, 1))),
        missing=f"Not evaluated: {', '.join(lacking)}." if lacking else "",
        settings=as_markdown(Table("", ("field", "value"), settings, words=(0, 1))),
        digest=one.trial.record.digest,
        run=one.trial.record.run_id,
        versions=", ".join(f"{package} {version}" for package, version in versions.items()) or "unknown versions",
    )


def _starting_model(ledger: Ledger, one: Checkpoint) -> dict[str, float]:
    """Metric -> what the starting model scores: by itself (`mmpo judge`), and of what the trial's stage knows."""
    alone = judged_alone(ledger, one.trial.record.params.get("model", ""))
    with ledger.store.reading():
        parent = one.trial.record.parent
        baseline = baseline_of(ledger.store.client.get_run(parent).data.tags) if parent else None
    if baseline is None:
        return alone
    own = {} if baseline.line is None else {keys.REWARD_ACCURACY: baseline.line}
    return {**alone, keys.POLICY_ACCURACY: baseline.policy_accuracy, **own}


def evaluations(one: Checkpoint, config: TrialConfig) -> list[EvalResult]:
    """The checkpoint's scores in the form of the hub's metadata, as shares from 0 to 1."""
    from huggingface_hub import EvalResult

    data = " and ".join(_short(source) for source in config.dataset)
    against, alpaca = "against the starting model", "AlpacaEval 2"
    named: dict[str, tuple[str, str, str]] = {
        keys.REWARD_ACCURACY: ("Preference", data, "validation reward accuracy, by the objective's own score"),
        keys.POLICY_ACCURACY: ("Preference", data, "validation accuracy of plain log-probabilities"),
        keys.HARNESS_MEAN: ("LM Harness", "mean over tasks", "mean zero-shot accuracy"),
        **{rate: (alpaca, alpaca, f"{name} {against}") for rate, name in keys.LENGTH_CONTROLLED.items()},
        keys.WIN_RATE: (alpaca, alpaca, f"win rate {against}"),
        keys.ARENA_WIN_RATE: ("Arena-Hard", "Arena-Hard", "win rate"),
    }
    for metric in sorted(one.trial.scores):
        task = re.fullmatch(keys.harness_task("([^/]+)"), metric)
        if task:
            named[metric] = ("LM Harness", task.group(1), f"zero-shot accuracy, {task.group(1)}")
    return [
        EvalResult(
            task_type="text-generation",
            task_name=task,
            dataset_type=re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-"),
            dataset_name=dataset,
            metric_type=metric,
            metric_name=called,
            metric_value=round(one.trial.scores[metric][one.epoch], 6),
        )
        for metric, (task, dataset, called) in named.items()
        if one.epoch in one.trial.scores.get(metric, {})
    ]


def _measured(one: Checkpoint, metric: str) -> bool:
    return any(name.startswith(metric) and one.epoch in epochs for name, epochs in one.trial.scores.items())


def _on_hub(name: str) -> bool:
    """Whether a name has the form of a hub id and is not a folder."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def _short(name: str) -> str:
    """A hub id unchanged; the last part of a folder's path, since a card must not show paths of this machine."""
    name = re.split("[:#]", name)[0] if not name.startswith("/") else name
    return name if _on_hub(name) else Path(name).name


def _value(value: Any) -> str:
    return masked(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)) or '""'
