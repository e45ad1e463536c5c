"""The cost of judging: prices of known models, the money spent, and a cap that is never exceeded."""

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mmpo_train.errors import InputError


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for these tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


FREE = Price(0.0, 0.0)

# List prices of openai.com/api/pricing and claude.com/pricing as of November 2026, without batch or cache discounts.
PRICES = {
    "gpt-4o-mini-2024-07-18": Price(0.15, 0.60),
    "gpt-4-1106-preview": Price(10.00, 30.00),
    "claude-haiku-4-5-20251001": Price(1.00, 5.00),
}

# Tokens of a prompt beyond its text, which mark roles and turns. A byte is never more than one token.
_EXTRA_PROMPT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A judge's cost since it was opened."""

    requests: int = 0
    """Requests sent, failed ones included; verdicts from the cache are not requests."""
    prompt_tokens: int = 0
    """Tokens of the prompts, as the service counts them."""
    completion_tokens: int = 0
    usd: float | None = 0.0
    """Upper limit of the cost; None if the price is not known."""
    unconfirmed: int = 0
    """Requests whose bill is not known, for example after a time-out; `usd` includes the most that they can cost."""

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens


class CapReached(InputError):
    """The next request might exceed the cap."""


def read_price(text: str) -> Price:
    """The price in a text IN/OUT, in USD per million tokens. Raises InputError."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)", text)
    if not parts:
        raise InputError(f"price {text!r} cannot be read; write USD per million tokens IN/OUT, such as price=0.15/0.60")
    return Price(float(parts[1]), float(parts[2]))


class Bill:
    """The bill of one request."""

    def __init__(self) -> None:
        self.tokens: tuple[int, int] | None = None

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Record the tokens that the service charges for. Without this call the request counts with its maximum."""
        self.tokens = prompt_tokens, completion_tokens


class Purse:
    """Pays a judge's requests, from any number of threads, and starts none that could exceed the cap."""

    def __init__(self, judge: str, price: Price | None = None, cap_usd: float | None = None) -> None:
        """Raises InputError if the cap cannot be kept: it is not an amount, or the price is not known."""
        if cap_usd is not None and not (math.isfinite(cap_usd) and cap_usd >= 0):
            raise InputError(f"a cap of {cap_usd} USD cannot be kept; give an amount of 0 or more")
        if cap_usd is not None and price is None:
            raise InputError(
                f"the price of judge '{judge}' is not known, so a cap of {cap_usd} USD cannot be kept; add its price "
                f"in USD per million tokens ('{judge},price=IN/OUT'), or leave out the cap. "
                f"Known are the prices of {', '.join(PRICES)}"
            )
        self.judge, self.price, self.cap_usd = judge, price, cap_usd
        self._changed = threading.Condition()
        self._requests = self._unconfirmed = 0
        # (prompt, completion) tokens: charged, maximum of requests without a bill, maximum of requests under way.
        self._charged, self._lost, self._reserved = (0, 0), (0, 0), (0, 0)

    @contextmanager
    def request(self, prompt_bytes: int, max_reply_tokens: int) -> Iterator[Bill]:
        """A block around one request, for which its maximal cost is reserved until its bill is settled. Waits as long
        as requests under way may leave enough money. Raises CapReached if they cannot."""
        worst = prompt_bytes + _EXTRA_PROMPT_TOKENS, max_reply_tokens
        with self._changed:
            while not self._fits(_sum(self._reserved, worst)):
                if not self._fits(worst):
                    raise CapReached(self._refusal(worst))
                self._changed.wait()
            self._reserved = _sum(self._reserved, worst)
            self._requests += 1
        bill = Bill()
        try:
            yield bill
        finally:
            with self._changed:
                self._reserved = self._reserved[0] - worst[0], self._reserved[1] - worst[1]
                if bill.tokens is None:
                    self._lost, self._unconfirmed = _sum(self._lost, worst), self._unconfirmed + 1
                else:
                    self._charged = _sum(self._charged, bill.tokens)
                self._changed.notify_all()

    def spent(self) -> Cost:
        """The cost so far."""
        with self._changed:
            return Cost(
                requests=self._requests,
                prompt_tokens=self._charged[0],
                completion_tokens=self._charged[1],
                usd=self.price.of(*_sum(self._charged, self._lost)) if self.price else None,
                unconfirmed=self._unconfirmed,
            )

    def _fits(self, tokens: tuple[int, int]) -> bool:
        """Whether these further tokens would stay within the cap."""
        if self.price is None or self.cap_usd is None:
            return True
        return self.price.of(*_sum(_sum(self._charged, self._lost), tokens)) <= self.cap_usd

    def _refusal(self, worst: tuple[int, int]) -> str:
        assert self.price is not None
        spent = self.price.of(*_sum(self._charged, self._lost))
        return (
            f"judge '{self.judge}' has cost {spent:.6f} USD in {self._requests} requests, and the next may cost up to "
            f"{self.price.of(*worst):.6f}: that would exceed the cap of {self.cap_usd} USD"
        )


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
