"""What tests of judges ask, how long they wait for an answer, and a judge that needs no server."""

import pytest

from eval_workers.judging.clients import Limits
from eval_workers.judging.verdicts import LOSS, TIE, WIN, JudgeFailed
from tests.support.standins.judge_server import REFUSED, Fault

KEY = "sk-test-0123456789abcdef"
SHORT, LONG = "It is.", "It is, and here is why."
QUICK = Limits(timeout_seconds=5.0, transport_retries=2)
PROTOCOLS = pytest.mark.parametrize("protocol", ["openai", "anthropic"])
LASTING = [
    (Fault(status=429, retry_after_seconds=0.05), 1, "rate limited", 2),
    (Fault(status=503, retry_after_seconds=0.05), 1, "service fault", 2),
    (Fault(status=400, message="too many tokens"), 1, "request rejected", 1),
    (Fault(delay_seconds=3), 0, "timed out", 1),
    (Fault(hang_up=True), 0, "unreachable", 1),
    (REFUSED, 1, "refused to judge", 1),
]
"""What every request meets, how often it is sent again, what it is counted as, and the requests that makes."""


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
