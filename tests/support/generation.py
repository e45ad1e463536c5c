"""Answers of a generator that are kept nowhere, and one that dies at work."""

from eval_workers.answers.generation import TOKENS_PER_BATCH
from eval_workers.answers.sampling import plan, tasks_of


def generate(generator, prompts, samplings, tokens_per_batch=TOKENS_PER_BATCH):
    """For each prompt one answer by each sampling, as `generate_to` gives them."""
    wanted = tasks_of(prompts, samplings)
    answers = {}
    for batch in generator.run(plan((task for row in wanted for task in row), tokens_per_batch)):
        answers |= batch
    return [[answers[task] for task in row] for row in wanted]


class Killed(Exception):
    """What the process would have died of."""


class Dying:
    """A generator that dies once so many of its batches are taken; `made` are the answers of each batch."""

    def __init__(self, generator, batches=None):
        self.generator, self.batches, self.made = generator, batches, []

    def run(self, batches):
        for answers in self.generator.run(batches):
            self.made.append(len(answers))
            yield answers
            if len(self.made) == self.batches:
                raise Killed
