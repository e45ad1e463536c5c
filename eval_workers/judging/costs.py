"""What judging costs: prices of known models, what was spent, and a cap that stops before it is exceeded."""

from __future__ import annotations

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
        """USD for so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


FREE = Price(0.0, 0.0)

# List prices of openai.com/api/pricing and claude.com/pricing as of November 2026, without batch or cache discounts.
PRICES = {
    "gpt-4o-mini-2024-07-18": Price(0.15, 0.60),
    "gpt-4-1106-preview": Price(10.00, 30.00),
    "claude-haiku-4-5-20251001": Price(1.00, 5.00),
}

# Of a prompt, beyond its own text: what marks roles and turns. A byte is never more than one token.
_EXTRA_PROMPT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a judge has cost since it was opened."""

    requests: int = 0
    """Sent, with those that failed; an answer from the cache is none."""
    prompt_tokens: int = 0
    """As the service counts them."""
    completion_tokens: int = 0
    usd: float | None = 0.0
    """At most; None where the price is not known."""
    unconfirmed: int = 0
    """Requests whose bill is not known, as after a time-out; they stand in `usd` with the most they can cost."""


class CapReached(InputError):
    """The next request might cost more than is left."""


def read_price(text: str) -> Price:
    """The price written IN/OUT, in USD per million tokens. Raises InputError."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)", text)
    if not parts:
        raise InputError(f"price {text!r} cannot be read; write USD per million tokens IN/OUT, such as price=0.15/0.60")
    return Price(float(parts[1]), float(parts[2]))


class Bill:
    """Of one request: what it turned out to need."""

    def __init__(self) -> None:
        self.tokens: tuple[int, int] | None = None

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """The tokens that the service charges for; without this the request counts with the most it can cost."""
        self.tokens = prompt_tokens, completion_tokens


class Purse:
    """Pays a judge's requests, from any number of threads, and lets none begin that could take more than the cap."""

    def __init__(self, judge: str, price: Price | None = None, cap_usd: float | None = None) -> None:
        """Raises InputError where a cap cannot be kept: it is no amount, or the price is not known."""
        if cap_usd is not None and not (math.isfinite(cap_usd) and cap_usd >= 0):
            raise InputError(f"a cap of {cap_usd} USD cannot be kept; give an amount of 0 or more")
        if cap_usd is not None and price is None:
            raise InputError(
                f"the price of judge '{judge}' is not known, so a cap of {cap_usd} USD cannot be kept; write its USD "
                f"per million tokens after it ('{judge},price=IN/OUT'), or leave the cap out. "
                f"Prices are known of {', '.join(PRICES)}"
            )
        self.judge, self.price, self.cap_usd = judge, price, cap_usd
        self._changed = threading.Condition()
        self._requests = self._unconfirmed = 0
        # (prompt, completion) tokens: as charged, at most of requests without a bill, at most of those under way.
        self._charged, self._lost, self._reserved = (0, 0), (0, 0), (0, 0)

    @contextmanager
    def request(self, prompt_bytes: int, max_reply_tokens: int) -> Iterator[Bill]:
        """Around one request, whose worst case is reserved until its bill is settled.

        Waits while requests under way may yet leave enough. Raises CapReached where they cannot.
        """
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
        """So far."""
        with self._changed:
            return Cost(
                requests=self._requests,
                prompt_tokens=self._charged[0],
                completion_tokens=self._charged[1],
                usd=self.price.of(*_sum(self._charged, self._lost)) if self.price else None,
                unconfirmed=self._unconfirmed,
            )

    def _fits(self, tokens: tuple[int, int]) -> bool:
        """Whether so many tokens more, at the most, stay within the cap."""
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
