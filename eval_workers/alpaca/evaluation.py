"""AlpacaEval 2: how often judges prefer a checkpoint's answers to those of the starting model.

The method is the same with the SFT model as baseline instead of GPT-4 (MMPO, Section 4.2). In AlpacaEval's files
output 1 is the baseline's and output 2 the checkpoint's, and a preference is 1 plus what the checkpoint has won.

A judge can be manipulated, and may prefer a place to an answer: `judging/checks.py` measures both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from eval_workers.alpaca.data import (
    OFFICIAL,
    TINY,
    Outputs,
    read_length_data,
    read_outputs,
    read_prompts,
    write_outputs,
)
from eval_workers.alpaca.length_control import (
    Judged,
    LengthControlled,
    NoLengthControl,
    length_controlled_win_rate,
    win_rate,
)
from eval_workers.answers.answering import Answering, Policy
from eval_workers.answers.sampling import Sampling
from eval_workers.checkpoint_folders import tokenizer_folder_of
from eval_workers.judging.checks import judge_checks, spread
from eval_workers.judging.costs import Cost
from eval_workers.judging.judges import judge_pairs
from eval_workers.judging.pairs import pair_rows, write_pairs
from eval_workers.judging.preference_judges import PreferenceJudge, open_preference_judge
from eval_workers.judging.specs import USUAL_JUDGES, check_preference_spec
from eval_workers.settings import EvaluationSettings
from mmpo_train.config import digest_of
from mmpo_train.data.rendering import facts
from mmpo_train.errors import InputError, complaints
from mmpo_train.metric_names import ALPACA, LC_WIN_RATE, UNJUDGED_SHARES, WIN_RATE, as_part, by_judge, error_of
from mmpo_train.model.folders import fingerprint
from mmpo_train.storage.whole_file import write_whole


class AlpacaEval:
    """AlpacaEval with its prompts, judges and baseline answers, kept from one checkpoint to the next."""

    def __init__(
        self, answering: Answering, settings: EvaluationSettings, *, tiny: bool, precision: str, seed: int = 0
    ) -> None:
        """Raises InputError if prompts, difficulties or a judge are not available. Asks nothing yet.

        The sampling is that of the paper's author; tiny answers greedily. The seed decides on the answers, and on which
        of two is shown first.
        """
        self.answering, self.settings, self.precision = answering, settings, precision
        specs = settings.judges or ((TINY,) if tiny else USUAL_JUDGES)
        if wrong := complaints(partial(check_preference_spec, spec) for spec in specs):
            raise InputError("; ".join(wrong))
        temperature, top_p, most = (0.0, 1.0, 128) if tiny else (0.95, 0.8, 4096)
        most = settings.max_answer_tokens or most
        self.sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=most, seed=seed)
        source = settings.alpaca_prompts or (TINY if tiny else OFFICIAL)
        every_prompt = read_prompts(source)
        some = spread(len(every_prompt), settings.limit or len(every_prompt))
        self.prompts = [every_prompt[place] for place in some]
        files = settings.alpaca_difficulty, settings.alpaca_gamed, settings.alpaca_gamed_sha256
        self.difficulty, self.gamed = read_length_data(source, every_prompt, *files)
        self.judges: dict[str, PreferenceJudge] = {}
        """The judges by their names in metrics."""
        how: dict[str, Any] = {"template": settings.judge_prompt, "cap_usd": settings.cap_usd or None}
        how |= {"seed": seed, "cache": answering.verdicts, "both_orders": settings.both_orders}
        for spec in specs:
            judge = open_preference_judge(spec, **how)
            name = metric_name(judge.name)
            if name in self.judges:
                raise InputError(f"two judges would both be called '{name}' in metrics; give each judge once")
            self.judges[name] = judge
        self._folder = answering.verdicts.parent / "alpaca_eval"
        self._baseline: tuple[str, Outputs] | None = None

    def __call__(self, checkpoint: Path, baseline: Path, artifacts: Path) -> dict[str, float]:
        """Metrics of a checkpoint, a model folder or LoRA adapters, against another model or its outputs.json.

        Of each judge: alpaca/win_rate/JUDGE (0 to 1) and lc_win_rate with their errors, null_win_rate and
        order_flip_rate (`judging/checks.py`), unjudged and unjudged_share; alpaca/win_rate and lc_win_rate are means
        over judges. Others: tokens and characters (mean length), cut, judge_tokens, and judge_usd if all prices are
        known. The length-controlled rate has this name only in the published form on all prompts with a difficulty;
        see `_length_controlled_name`. Left out are rates without judgements, length control that would mean nothing,
        and means that lack a judge.

        Files in `artifacts`: outputs.json and baseline_outputs.json in AlpacaEval's form, annotations.jsonl, and
        alpaca_eval.json (settings, fits, reasons). Earlier answers and verdicts are reused. Raises InputError.
        """
        artifacts.mkdir(parents=True, exist_ok=True)
        theirs = self._baseline_outputs(baseline)
        write_outputs(artifacts / "baseline_outputs.json", self.prompts, theirs)
        ours = self._answers(checkpoint)
        write_outputs(artifacts / "outputs.json", self.prompts, ours)
        costs = [judge.spent() for judge in self.judges.values()]
        metrics = {
            f"{ALPACA}tokens": sum(ours.tokens) / len(ours.tokens),
            f"{ALPACA}characters": sum(map(len, ours.texts)) / len(ours.texts),
            f"{ALPACA}cut": float(ours.cut),
        }
        annotations: list[dict[str, Any]] = []
        pairs: list[dict[str, Any]] = []
        rates: dict[str, dict[str, float]] = {}
        fits: dict[str, Any] = {}
        texts = self.prompts, ours.texts, theirs.texts
        for name, judge in self.judges.items():
            won, count = judge_pairs(judge, *texts)
            count.warn(f"AlpacaEval, {name}")
            annotations += self._annotations(judge.name, theirs, ours, won)
            write_whole(artifacts / "annotations.jsonl", "".join(json.dumps(row) + "\n" for row in annotations))
            pairs += pair_rows(judge, *texts, won, getattr(judge, "price", None))
            write_pairs(artifacts, pairs)
            rates[name], fit = self._rates(ours.texts, theirs.texts, won)
            checked = judge_checks(judge, *texts, self.settings.checked_pairs)
            rates[name] |= {f"{ALPACA}{rate}": value for rate, value in checked.items()}
            share = count.dropped / len(self.prompts)
            metrics[by_judge(f"{ALPACA}unjudged", name)] = float(count.dropped)
            metrics[by_judge(UNJUDGED_SHARES["alpaca"], name)] = share
            fits[name] = {"prompt": judge.prompt, "length_control": fit}
            fits[name] |= {"unjudged": dict(count.reasons), "unjudged_share": share}
        metrics |= _with_means(rates)
        metrics |= _spent(costs, [judge.spent() for judge in self.judges.values()])
        self.facts = facts(tokenizer_folder_of(checkpoint))
        settings = {**self.settings.plain(), **asdict(self.sampling), "precision": self.precision}
        summary = {"settings": settings, "rendering": self.facts, "judges": fits, "metrics": metrics}
        write_whole(artifacts / "alpaca_eval.json", json.dumps(summary, indent=1, default=str) + "\n")
        return metrics

    def _rates(
        self, ours: Sequence[str], theirs: Sequence[str], won: Sequence[float | None]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """A judge's win rates, and the fit behind the length-controlled one or the reason why there is none."""
        # Prompts on which the judge failed count for neither side.
        every = zip(self.prompts, won, map(len, ours), map(len, theirs), strict=True)
        judged = [Judged(prompt, one, *lengths) for prompt, one, *lengths in every if one is not None]
        if not judged:
            return {}, {"reason": "no judgements"}
        plain = win_rate(judged)
        metrics = {WIN_RATE: plain.rate}
        if len(judged) > 1:
            metrics[error_of(WIN_RATE)] = plain.standard_error
        try:
            controlled = length_controlled_win_rate(judged, self.difficulty, self.gamed)
        except NoLengthControl as refusal:
            return metrics, {"reason": str(refusal)}
        called = self._length_controlled_name(controlled)
        return metrics | {called: controlled.rate, error_of(called): controlled.standard_error}, asdict(controlled)

    def _length_controlled_name(self, controlled: LengthControlled) -> str:
        """The name ends in _part for v1 on some of the prompts that have a difficulty, else in the form's."""
        if controlled.form != "v1":
            return f"{LC_WIN_RATE}_{controlled.form}"
        return LC_WIN_RATE if set(self.prompts) == set(self.difficulty or ()) else f"{LC_WIN_RATE}_part"

    def _annotations(
        self, judge: str, theirs: Outputs, ours: Outputs, won: Sequence[float | None]
    ) -> list[dict[str, Any]]:
        """A row for each prompt; AlpacaEval's preference, from 1 to 2, is null if the judge failed."""
        return [
            {
                "instruction": prompt,
                "generator_1": theirs.generator,
                "output_1": output_1,
                "generator_2": ours.generator,
                "output_2": output_2,
                "judge": judge,
                "preference": None if one is None else 1 + one,
            }
            for prompt, output_1, output_2, one in zip(self.prompts, theirs.texts, ours.texts, won, strict=True)
        ]

    def _baseline_outputs(self, baseline: Path) -> Outputs:
        if baseline.is_file():
            return read_outputs(baseline, self.prompts)
        mark = self._mark(baseline)
        if self._baseline is None or self._baseline[0] != mark:
            self._baseline = mark, self._answers(baseline)
        return self._baseline[1]

    def _answers(self, policy: Path) -> Outputs:
        """One answer to each prompt, saved under the digest of the model as they come."""
        mark, tokenizer_folder = self._mark(policy), tokenizer_folder_of(policy)
        path = self._folder / f"{mark}.jsonl"
        # Several actors may want the same model's answers at once; the first one generates, the others find them.
        with FileLock(f"{path}.lock"):
            asked = Policy(policy, mark, tokenizer_folder, self.precision)
            answers, texts = self.answering.replies(path, asked, self.prompts, self.sampling)
        return Outputs(
            generator="/".join(policy.resolve().parts[-3:]),
            texts=texts,
            tokens=[len(answer.ids) for answer in answers],
            cut=sum(not answer.finished for answer in answers),
        )

    def _mark(self, policy: Path) -> str:
        """Identity of the model: a digest of its content (with LoRA adapters also of their base) and precision."""
        folders = dict.fromkeys((policy, tokenizer_folder_of(policy)))
        self._folder.mkdir(parents=True, exist_ok=True)
        marks = [fingerprint(folder, self._folder / "fingerprints.json") for folder in folders]
        return digest_of([*marks, self.precision])


def metric_name(judge: str) -> str:
    """The judge's name without its address, as a part of metrics' names."""
    return as_part(judge.partition("@http")[0], "judge")


def _with_means(rates: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The numbers of each judge under names that end with its own, and the mean of each rate that all judges have."""
    metrics = {by_judge(name, judge): value for judge, own in rates.items() for name, value in own.items()}
    shared = sorted(set.intersection(*map(set, rates.values())))
    means = {name: sum(own[name] for own in rates.values()) / len(rates) for name in shared}
    return metrics | {name: mean for name, mean in means.items() if not name.endswith(error_of(""))}


def _spent(before: Sequence[Cost], after: Sequence[Cost]) -> dict[str, float]:
    """Cost of all judges together, for this checkpoint alone."""
    used, earlier = (sum(cost.tokens for cost in costs) for costs in (after, before))
    metrics = {f"{ALPACA}judge_tokens": float(used - earlier)}
    prices = [(now.usd, then.usd) for now, then in zip(after, before, strict=True)]
    known = [now - then for now, then in prices if now is not None and then is not None]
    return metrics | ({f"{ALPACA}judge_usd": sum(known)} if len(known) == len(prices) else {})
