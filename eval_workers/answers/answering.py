"""Answering prompts and judging answers, with one model in memory at a time and the judges opened so far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from eval_workers.answers.generation import Answer, Generator, generate_to
from eval_workers.answers.sampling import Sampling
from eval_workers.answers.vllm_generation import VllmGenerator, what_vllm_lacks
from eval_workers.judging.judges import Judge, open_judge
from eval_workers.warm_model import WarmModel
from mmpo_train.chat.messages import Message
from mmpo_train.data.rendering import Unusable, end_ids_of, prompt_ids
from mmpo_train.errors import InputError
from mmpo_train.model.logps import CompletionLogps, Forward
from mmpo_train.model.policy import load_tokenizer
from mmpo_train.model.scoring import model_forward


class Policy(NamedTuple):
    """A model that answers."""

    folder: Path
    name: str
    """The name under which its answers are kept."""
    tokenizer: Path
    """Folder of its tokenizer."""
    precision: str


class Answering:
    """A generator and judges, kept warm from one request to the next."""

    def __init__(self, verdicts: Path, generator: Literal["auto", "own", "vllm"] = "auto") -> None:
        """`verdicts` is the file in which judges' verdicts are kept. The generator "auto" is vLLM if it is installed
        and sees a GPU. Raises InputError for "vllm" if it cannot run."""
        lack = what_vllm_lacks()
        if generator == "vllm" and lack:
            raise InputError(f"generator is 'vllm', but {lack}")
        self.generator: Any  # a Generator or a VllmGenerator
        if generator == "own" or lack:
            self.generator = Generator()
            self.warm = self.generator.warm
        else:
            self.generator, self.warm = VllmGenerator(), WarmModel()
        self.verdicts = verdicts
        self.judges: dict[tuple[str, int, Path | None], Judge] = {}

    def judge(self, spec: str, seed: int, template: Path | None = None) -> Judge:
        """The judge of that name and prompt, opened on first use."""
        key = spec, seed, template
        if key not in self.judges:
            self.judges[key] = open_judge(spec, seed=seed, cache=self.verdicts, template=template)
        return self.judges[key]

    def answers(
        self, path: Path, policy: Policy, prompts: Sequence[np.ndarray], samplings: Sequence[Sampling]
    ) -> tuple[list[list[Answer]], list[list[str]]]:
        """One answer per prompt and sampling, as ids and as text; saved in `path` under the policy's name."""
        tokenizer = load_tokenizer(policy.tokenizer)
        if isinstance(self.generator, VllmGenerator):
            self.warm = WarmModel()  # what the last one holds need not fit beside vLLM's engine
            torch.cuda.empty_cache()
        self.generator.load(policy.folder, end_ids_of(tokenizer), precision=policy.precision)
        # vLLM's answers are told from our own generator's.
        kept_as = f"{policy.name} vllm" if isinstance(self.generator, VllmGenerator) else policy.name
        answers = generate_to(path, self.generator, kept_as, [ids.tolist() for ids in prompts], samplings)
        texts = [[str(tokenizer.decode(answer.ids, skip_special_tokens=True)) for answer in row] for row in answers]
        return answers, texts

    def replies(
        self, path: Path, policy: Policy, questions: Sequence[str], sampling: Sampling
    ) -> tuple[list[Answer], list[str]]:
        """One answer to each question of a user, otherwise as `answers`. Raises InputError for a question that the chat
        template cannot render."""
        tokenizer, prompts = load_tokenizer(policy.tokenizer), []
        for question in questions:
            try:
                prompts.append(np.array(prompt_ids(tokenizer, [Message("user", question)]), dtype=np.int32))
            except Unusable as error:
                raise InputError(
                    f"{policy.folder} cannot answer {question[:80]!r}: {error}; use another model"
                ) from error
        answers, texts = self.answers(path, policy, prompts, [sampling])
        return [row[0] for row in answers], [row[0] for row in texts]

    def scorer(self, folder: Path, precision: str) -> Forward:
        """The folder's model as `score_pairs` expects it. It replaces the answering model in memory."""
        if isinstance(self.generator, VllmGenerator):
            self.generator.free()
        return model_forward(CompletionLogps(self.warm.load(folder, precision)), self.warm.device, precision)
