"""What answers prompts and ranks answers: one model in memory at a time, and the judges that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval_workers.generation import Answer, Generator, end_ids_of, generate_to
from eval_workers.judges import Judge, open_judge
from eval_workers.sampling import Sampling
from mmpo_train.policy import load_tokenizer


class Answering:
    """Kept warm from one request to the next."""

    def __init__(self, verdicts: Path) -> None:
        """`verdicts` is the file in which judges' verdicts are kept."""
        self.generator = Generator()
        self.verdicts = verdicts
        self.judges: dict[tuple[str, int], Judge] = {}

    def judge(self, spec: str, seed: int) -> Judge:
        """The judge of that name, opened on first use."""
        if (spec, seed) not in self.judges:
            self.judges[spec, seed] = open_judge(spec, seed=seed, cache=self.verdicts)
        return self.judges[spec, seed]

    def answers(
        self,
        path: Path,
        policy: Path,
        name: str,
        tokenizer_folder: Path,
        prompts: Sequence[np.ndarray],
        samplings: Sequence[Sampling],
        precision: str,
    ) -> tuple[list[list[Answer]], list[list[str]]]:
        """For each prompt one answer by each sampling, as ids and as text; kept in `path` under the policy's name."""
        tokenizer = load_tokenizer(tokenizer_folder)
        self.generator.load(policy, end_ids_of(tokenizer), precision=precision)
        answers = generate_to(path, self.generator, name, [ids.tolist() for ids in prompts], samplings)
        texts = [[str(tokenizer.decode(answer.ids, skip_special_tokens=True)) for answer in row] for row in answers]
        return answers, texts
