"""Zero-shot accuracy of a checkpoint on lm-eval's multiple-choice tasks. The one door to lm_eval."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.api.task
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from eval_workers.checkpoint_folders import CheckpointFolder, open_checkpoint
from eval_workers.harness.loglikelihoods import Requests
from eval_workers.harness.results import metrics_of, summary, write_results
from eval_workers.harness.tasks import HARNESS_TASKS, TINY_TASKS, check_names, write_definition
from eval_workers.warm_model import WarmModel
from mmpo_train.config import digest_of
from mmpo_train.data.rendering import Tokenizer, Unusable, facts, render, without_marks
from mmpo_train.data.sources import cache_only
from mmpo_train.errors import InputError, in_brief
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_tokenizer
from mmpo_train.model.scoring import model_forward
from mmpo_train.storage.manifest import write_folder

_DEFAULT_POSITIONS = 2048


class LMHarness:
    """LM Harness with its rendered and tokenised requests and a model, kept from one checkpoint to the next."""

    def __init__(
        self,
        *,
        tasks: Sequence[str] = HARNESS_TASKS,
        task_data: Path | None = None,
        chat_template: bool = True,
        limit: int | None = None,
        cache: Path,
    ) -> None:
        """`limit` uses the first documents of each task (of each subject of mmlu). `cache` holds definitions and data.

        `task_data` is a folder with TASK.jsonl or TASK/SPLIT.jsonl for each packaged task, in the columns of the hub's
        dataset; for mmlu one file with a column `subject`, or mmlu/SUBJECT.jsonl for all 57. None means the hub. tiny's
        tasks need neither. Raises InputError for settings that cannot run.
        """
        check_names(tasks)
        if limit is not None and limit < 1:
            raise InputError(f"limit is {limit}; expected at least one document of each task, or no limit for all")
        if task_data is not None and not task_data.is_dir():
            raise InputError(f"the folder of task data {task_data} does not exist")
        self.tasks, self.task_data, self.cache = tuple(dict.fromkeys(tasks)), task_data, cache
        self.chat_template, self.limit = chat_template, limit
        self.missing: dict[str, str] = {}
        """Task -> reason why it has no result in the last call."""
        self.warm = WarmModel()
        self._ready: dict[str, Any] = {}
        self._scorer: _Scorer | None = None

    def __call__(self, checkpoint: str, *, artifacts: Path) -> dict[str, float]:
        """harness/TASK/acc of each task, and harness/mean_accuracy with its error (`results.summary`).

        mmlu's accuracy and error are lm-eval's own, weighted by the subjects' sizes. Tasks without data are left out
        and listed in `missing`; then there is no mean.

        `checkpoint` is a folder of ours, a Hugging Face folder or a hub id. artifacts/harness gets results.json and
        samples/TASK.jsonl. Raises DamagedFolder, and InputError if no task can run.
        """
        opened = open_checkpoint(checkpoint)
        model, precision = self.warm.load(opened.folder, opened.precision), opened.precision
        with _quiet():
            scorer = self._prepare(opened, model.config)
            forward = model_forward(CompletionLogps(model), self.warm.device, precision)
            scorer.score = lambda requests: requests.score(forward, self.warm.device, precision)
            found = self._evaluate(scorer)
        settings = {
            "checkpoint": checkpoint,
            "precision": precision,
            "chat_template": self.chat_template,
            "limit": self.limit,
            "lm_eval": lm_eval.__version__,
            **facts(opened.tokenizer_folder),
        }
        result = summary(found, self.tasks, self.missing)
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if name in self.tasks)
        self.facts = {**facts(opened.tokenizer_folder), "lm_eval": lm_eval.__version__, "task_versions": versions}
        parts = {name: list(loaded["tasks"]) for name, loaded in self._ready.items()}
        write_folder(
            artifacts / "harness", lambda place: write_results(place, settings | result, parts, found["samples"])
        )
        return metrics_of(result)

    def _prepare(self, opened: CheckpointFolder, config: Any) -> _Scorer:
        """The scorer for the checkpoint's tokenizer, with all requests rendered; missing tasks are tried again."""
        positions = getattr(config, "max_position_embeddings", None) or _DEFAULT_POSITIONS
        key = opened.tokenizer_digest(), positions
        if self._scorer is None or (self._scorer.digest, self._scorer.positions) != key:
            self._scorer = _Scorer(load_tokenizer(opened.tokenizer_folder), *key, chat=self.chat_template)
            self._ready = {}
        self.missing = {}
        reachable = True
        for name in self.tasks:
            if name in self._ready:
                continue
            try:
                self._ready[name] = self._load(name, self._scorer, reachable)
            except InputError as error:
                self.missing[name] = str(error)
                # The hub's client tries for half a minute: once is enough, after that only its cache on disk is used.
                reachable = reachable and not isinstance(error.__cause__, ConnectionError)
            else:
                self._scorer.requests = None
        if not self._ready:
            raise InputError("; ".join(self.missing.values()))
        return self._scorer

    def _load(self, name: str, scorer: _Scorer, hub_is_reachable: bool) -> Any:
        """lm-eval's objects of one task, with their requests rendered."""
        local = self.task_data is not None or name in TINY_TASKS
        source = "hub" if self.task_data is None else digest_of(str(self.task_data.resolve()))
        folder = self.cache / "harness_tasks" / source / name
        write_definition(name, Path(lm_eval.tasks.__file__).parent, self.task_data, folder)
        try:
            with cache_only() if local or not hub_is_reachable else contextlib.nullcontext():
                # Without lm-eval's own definitions, whose index takes a quarter of a minute.
                loaded = TaskManager(include_path=str(folder), include_defaults=False).load([name])
            for task in loaded["tasks"].values():
                task.set_config(key="num_fewshot", value=0)
                task.build_all_requests(
                    limit=self.limit,
                    apply_chat_template=self.chat_template,
                    chat_template=scorer.apply_chat_template if self.chat_template else None,
                )
                task.build_all_requests = lambda **_: None  # they are built, once for all checkpoints
        except Exception as error:  # errors of the hub, pyarrow, jinja, and of a task's own functions
            reason = in_brief(error)
            if local:
                raise InputError(
                    f"task {name} cannot be made of the files in {self.task_data or folder} ({reason}); they must have "
                    "the columns of the hub's dataset"
                ) from error
            raise InputError(
                f"task {name} could not be loaded from the hub ({reason}); check the network, or give its rows "
                "as files in a folder of task data"
            ) from error
        return loaded

    def _evaluate(self, scorer: _Scorer) -> Any:
        """lm-eval's results from the scorer's log-likelihoods."""
        whole: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
        for name in self.tasks:
            for part, content in self._ready.get(name, {}).items():
                whole[part] |= content
        for task in whole["tasks"].values():
            for instance in task.instances:
                instance.resps, instance.filtered_resps = [], {}
        return evaluate(
            scorer,
            whole,
            limit=self.limit,
            bootstrap_iters=1,  # accuracy's standard error has a formula
        )


class _Scorer(TemplateLM):
    """The model interface of lm-eval. Texts are tokenised once, as in lm-eval's own Hugging Face model."""

    def __init__(self, tokenizer: Tokenizer, digest: str, positions: int, *, chat: bool) -> None:
        super().__init__()
        self.tokenizer, self.digest, self.positions, self.chat = tokenizer, digest, positions, chat
        self.requests: Requests | None = None
        self.score: Callable[[Requests], list[float]]

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids. A rendered conversation begins with BOS if its template writes one, as in training and generation;
        any other text if the tokenizer adds it, once."""
        if add_special_tokens is None:
            begins = string.startswith(str(self.tokenizer.decode(self.prefix_token_id)))
            add_special_tokens = False if self.chat or begins else None
        how = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **how)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The rendered conversation, without its system turn (mmlu has one) if the template refuses it."""
        asks = add_generation_prompt
        try:
            text = render(self.tokenizer, chat_history, add_generation_prompt=asks, continue_last=not asks)
        except Unusable:
            others = [turn for turn in chat_history if turn["role"] != "system"]
            text = render(self.tokenizer, others, add_generation_prompt=asks, continue_last=not asks)
        return without_marks(text)  # lm-eval joins texts, and knows tokens alone

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-likelihood of each request, and False, since accuracy does not ask whether it is greedy."""
        if self.requests is None:
            super().loglikelihood(requests, disable_tqdm=True)
        assert self.requests is not None and len(self.requests.places) == len(requests)
        return [(score, False) for score in self.score(self.requests)]

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        self.requests = Requests([(context, continuation) for _, context, continuation in requests], self.positions)
        return []

    # lm-eval requires these two of every model. `check_names` allows multiple-choice tasks, which never call them.
    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        raise AssertionError("a task other than multiple choice was let in")

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        raise AssertionError("a task other than multiple choice was let in")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block without progress bars, logs or warnings of lm-eval and datasets."""
    lm_eval.api.task.datasets.disable_progress_bars()
    for name in ("lm_eval", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
