"""Arena-Hard: how often a judge prefers a checkpoint's answers to a baseline's, on hard questions of real users."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from eval_workers.answers.answering import Answering, Policy
from eval_workers.answers.generation import Answer
from eval_workers.answers.sampling import Sampling
from eval_workers.arena.data import Question, read_answers, read_questions, usual_baseline, write_answers, write_rows
from eval_workers.arena.games import Game, bootstrap, by_label, open_labels_judge, play_once, play_two
from eval_workers.judging.checks import judge_checks
from eval_workers.judging.costs import PRICES, Purse, read_price
from eval_workers.judging.judges import Judge, open_judge
from eval_workers.judging.pairs import pair_rows, write_pairs
from eval_workers.judging.specs import IN_THIS_PROCESS, check_judge_spec
from eval_workers.settings import EvaluationSettings
from mmpo_train.config import digest_of
from mmpo_train.data.rendering import facts
from mmpo_train.errors import InputError
from mmpo_train.metric_names import ARENA, ARENA_WIN_RATE, UNJUDGED_SHARES, arena_category, as_part, error_of
from mmpo_train.model.folders import fingerprint
from mmpo_train.storage.whole_file import write_whole

STARTING_MODEL = "starting_model"

# Tiny's answers are a sentence, and its model has no more than 4096 positions for prompt and answer.
_TINY_MAX_NEW_TOKENS = 256
_PRICE = ",price="
_ROUNDS = 100
"""Rounds of the bootstrap."""


class ArenaHard:
    """Arena-Hard with its questions, baseline answers and judge, kept from one checkpoint to the next."""

    def __init__(
        self, answering: Answering, settings: EvaluationSettings, *, precision: str, judge: str = "tiny", seed: int = 0
    ) -> None:
        """Answers are greedy. The seed decides which of two is shown first (verdict form), and on the bootstrap.

        Without a folder of questions they are tiny's validation prompts. `judge` may end with `,price=IN/OUT` in USD
        per million tokens. Raises InputError.
        """
        self.answering, self.settings, self.precision, self.seed = answering, settings, precision, seed
        folder, name = settings.arena_questions, settings.arena_baseline
        if folder is None and name not in ("", STARTING_MODEL):
            raise InputError(f"baseline is '{name}', but tiny's questions have answers of {STARTING_MODEL} only")
        most = settings.max_answer_tokens or 4096
        most = most if folder else min(most, _TINY_MAX_NEW_TOKENS)
        self.sampling = Sampling(temperature=0.0, max_new_tokens=most, seed=seed)
        self.questions = read_questions(folder, settings.limit) if folder else _tiny_questions(settings.limit)
        categories = {question.category for question in self.questions}
        if len({*map(as_part, categories)}) < len(categories):
            listed = ", ".join(sorted(map(repr, categories)))
            raise InputError(f"{folder}: two categories have one name in metrics, of {listed}; rename one")
        usual = usual_baseline if folder else lambda question: STARTING_MODEL
        self.baselines = [name or usual(question) for question in self.questions]
        """The baseline of each question."""
        self.kept_answers: dict[str, str] = {}
        """Question -> answer of the baseline, unless that is the starting model."""
        for model in sorted(set(self.baselines) - {STARTING_MODEL}):
            asked = [one for one, baseline in zip(self.questions, self.baselines) if baseline == model]
            assert folder is not None  # see above
            self.kept_answers |= zip((one.name for one in asked), read_answers(folder, model, asked))
        spec, _, price = judge.partition(_PRICE)
        parts = check_judge_spec(spec)
        self.purse: Purse | None = None
        """The purse that pays for the judge; None for tiny's own."""
        if parts.service not in IN_THIS_PROCESS:
            self.purse = Purse(spec, read_price(price) if price else PRICES.get(parts.model), settings.cap_usd or None)
        given: dict[str, Any] = {"cache": answering.verdicts, "template": settings.judge_prompt, "purse": self.purse}
        labels = settings.arena_form == "labels"
        self.judge: Judge = open_labels_judge(spec, **given) if labels else open_judge(spec, seed=seed, **given)
        self._folder = answering.verdicts.parent / "arena_hard"

    def __call__(self, checkpoint: Path, starting_model: Path, artifacts: Path) -> dict[str, float]:
        """Metrics of a checkpoint, a model folder or LoRA adapters.

        Files in `artifacts`: judgments.jsonl, model_answer, and arena_hard.json with the settings.

        Metrics: arena_hard/win_rate with win_rate_low, win_rate_high (95%) and win_rate_error;
        arena_hard/CATEGORY/win_rate if there are several categories; with labels also arena_hard/plain_win_rate, in
        which a strong label counts once; arena_hard/tokens (mean length), cut, unjudged and unjudged_share; and the
        null_win_rate and order_flip_rate (`judging/checks.py`); and the
        cost so far, judge_tokens and, if the price is known, judge_usd. Questions on which the judge failed count for
        neither side; without any judgement there is no win rate. Earlier answers and verdicts are reused.
        """
        artifacts.mkdir(parents=True, exist_ok=True)
        answers, ours = self._answers(checkpoint, starting_model, artifacts / "answers.jsonl")
        lengths, name = [len(answer.ids) for answer in answers], checkpoint.absolute().name
        write_answers(artifacts, name, self.questions, ours, lengths)
        theirs = self._baseline_answers(starting_model, artifacts)
        play = play_once if self.settings.arena_form == "verdict" else play_two
        texts = [question.text for question in self.questions], ours, theirs
        games, count = play(self.judge, *texts)
        write_rows(artifacts / "judgments.jsonl", self._judgments(name, games))
        won = [game.points / game.weight if game else None for game in games]
        price = self.purse.price if self.purse is not None else None
        write_pairs(artifacts, pair_rows(self.judge, *texts, won, price))
        metrics = {
            f"{ARENA}unjudged": float(count.dropped),
            UNJUDGED_SHARES["arena"]: count.dropped / len(self.questions),
            f"{ARENA}cut": float(sum(not answer.finished for answer in answers)),
            f"{ARENA}tokens": sum(lengths) / len(lengths),
        }
        if self.purse is not None:
            spent = self.purse.spent()
            metrics[f"{ARENA}judge_tokens"] = float(spent.tokens)
            if spent.usd is not None:
                metrics[f"{ARENA}judge_usd"] = spent.usd
        count.warn("Arena-Hard")
        as_shown = partial(by_label, self.judge) if self.settings.arena_form == "labels" else None
        found = judge_checks(self.judge, *texts, self.settings.checked_pairs, as_shown)
        metrics |= self._rates(games) | {f"{ARENA}{name}": value for name, value in found.items()}
        self.facts = facts(starting_model)
        settings = {**self.settings.plain(), **asdict(self.sampling), "precision": self.precision}
        summary = {"settings": settings, "rendering": self.facts, "metrics": metrics}
        write_whole(artifacts / "arena_hard.json", json.dumps(summary, indent=1, default=str) + "\n")
        return metrics

    def _rates(self, games: Sequence[Game | None]) -> dict[str, float]:
        pairs = [(question, game) for question, game in zip(self.questions, games) if game is not None]
        if not pairs:
            return {}
        rate = bootstrap(
            [game.points for _, game in pairs], [game.weight for _, game in pairs], rounds=_ROUNDS, seed=self.seed
        )
        metrics = {
            ARENA_WIN_RATE: rate.rate,
            f"{ARENA_WIN_RATE}_low": rate.low,
            f"{ARENA_WIN_RATE}_high": rate.high,
            error_of(ARENA_WIN_RATE): rate.error,
        }
        if self.settings.arena_form == "labels":
            plain, played = (sum(values) for values in zip(*((game.plain_points, game.games) for _, game in pairs)))
            metrics[f"{ARENA}plain_win_rate"] = plain / played
        of_category: dict[str, list[Game]] = {}
        for question, game in pairs:
            of_category.setdefault(as_part(question.category), []).append(game)
        if len({question.category for question in self.questions}) > 1:
            for category, some in of_category.items():
                won, weight = sum(game.points for game in some), sum(game.weight for game in some)
                metrics[arena_category(category)] = won / weight
        return metrics

    def _answers(self, policy: Path, starting_model: Path, path: Path) -> tuple[list[Answer], list[str]]:
        """One answer to each question, as ids and as text, saved to `path` as they come."""
        marks = [fingerprint(folder, self._folder / "fingerprints.json") for folder in (policy, starting_model)]
        name, questions = digest_of([*marks, self.precision]), [question.text for question in self.questions]
        asked = Policy(policy, name, starting_model, self.precision)
        return self.answering.replies(path, asked, questions, self.sampling)

    def _baseline_answers(self, starting_model: Path, artifacts: Path) -> list[str]:
        if STARTING_MODEL not in self.baselines:
            return [self.kept_answers[question.name] for question in self.questions]
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "starting_model.jsonl"
        # Several actors may want them at once; the first one generates, the others find them.
        with FileLock(f"{path}.lock"):
            answers, texts = self._answers(starting_model, starting_model, path)
        write_answers(artifacts, STARTING_MODEL, self.questions, texts, [len(answer.ids) for answer in answers])
        return texts

    def _judgments(self, model: str, games: Sequence[Game | None]) -> list[dict[str, Any]]:
        """A line for each question; its labels are null if the judge failed."""
        return [
            {
                "question_id": question.name,
                "category": question.category,
                "model": model,
                "baseline": baseline,
                "judge": self.judge.name,
                "form": self.settings.arena_form,
                "labels": list(game.labels) if game else None,
                "points": game.points if game else None,
                "weight": game.weight if game else 0,
            }
            for question, baseline, game in zip(self.questions, self.baselines, games, strict=True)
        ]


def _tiny_questions(limit: int) -> list[Question]:
    from mmpo_train.tiny.rows import preference_examples

    prompts = [row["prompt"] for row in preference_examples("validation")][: limit or None]
    return [Question(str(number), "tiny", prompt, "v2.0") for number, prompt in enumerate(prompts)]
