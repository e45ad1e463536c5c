"""What tests of judges ask, how long they wait for an answer, and a judge that needs no server."""

import pytest

from eval_workers.judging.clients import Limits
from eval_workers.judging.verdicts import LOSS, TIE, WIN, JudgeFailed

KEY = "sk-test-0123456789abcdef"
SHORT, LONG = "It is.", "It is, and here is why."
QUICK = Limits(timeout_seconds=5.0, transport_retries=2)
PROTOCOLS = pytest.mark.parametrize("protocol", ["openai", "anthropic"])


class Scripted:
    """Prefers the answer with the higher number; keeps what it was asked."""

    name = "scripted"

    def __init__(self, failures=()):
        self.asked, self.failures = [], list(failures)

    def compare(self, question, answer_a, answer_b):
        self.asked.append((answer_a, answer_b))
        if self.failures and self.failures.pop(0):
            raise JudgeFailed("timed out")
        difference = int(answer_a) - int(answer_b)
        return WIN if difference > 0 else LOSS if difference < 0 else TIE
