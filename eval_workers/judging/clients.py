"""Judges over the network, by OpenAI's and Anthropic's protocols. The door to both libraries."""

import json
import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from eval_workers.judging.costs import Purse
from eval_workers.judging.specs import DEFAULT_URLS, JudgeSpec, key_of, key_variable
from eval_workers.judging.verdicts import JudgeFailed
from mmpo_train.errors import InputError
from mmpo_train.redaction import masked

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on time, retries and length of a judge's replies."""

    timeout_seconds: float = 60.0
    """A request counts as lost after this time without a sign of life from the service."""
    transport_retries: int = 4
    """Retries of a request that was lost, rate-limited (429) or met a fault of the service (5xx)."""
    verdict_retries: int = 1
    """Retries after a complete reply without a readable verdict. A refusal is final."""
    max_reply_tokens: int = 2048
    """Longest reply: explanation and verdict, and the thoughts of a model that reasons first."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A model's reply to one prompt."""

    text: str = ""
    ending: Literal["finished", "cut off", "refused", "unreadable"]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token: dict[str, float] = field(default_factory=dict)
    """Candidates for the first token -> log-probability in nats; empty if they were not requested or not given."""


Prompt = str | Sequence[dict[str, str]]
"""One user message, or several as {role, content}."""
Ask = Callable[[Prompt], Reply]
# The library, the call that sends (prompt, sampling), and the reader of the body that comes back.
_Protocol = tuple[Any, Callable[[Prompt, dict[str, Any]], Any], Callable[[dict[str, Any]], Reply]]

# The pause before a request is repeated, if the service names none; and the longest that is taken from it.
_USUAL_PAUSE, _LONGEST_PAUSE_TAKEN_SECONDS = wait_exponential(0.5, max=8.0), 60.0


def open_client(
    spec: JudgeSpec, limits: Limits, *, temperature: float = 0.0, top_logprobs: int = 0, purse: Purse | None = None
) -> Ask:
    """A function from a prompt to the model's reply, which several threads may call.

    With `top_logprobs` (OpenAI only) the reply has that many candidates for its first token. Every request is paid from
    `purse`. The function raises JudgeFailed if this prompt got no reply, and InputError if no prompt would get one
    (key, model or address refused). No message shows the key, which comes from OPENAI_API_KEY or ANTHROPIC_API_KEY.
    Raises InputError without a key.
    """
    key = key_of(spec)
    open_protocol = {"openai": _openai, "anthropic": _anthropic}[spec.service]
    sdk, send, read = open_protocol(spec.model, spec.url or DEFAULT_URLS[spec.service], key, limits)
    sampling: dict[str, Any] = {"temperature": temperature}
    if top_logprobs:
        sampling |= {"logprobs": True, "top_logprobs": top_logprobs}
    purse = purse or Purse(spec.name)

    def once(prompt: Prompt) -> Reply:
        """The reply, or the library's error raised; both are paid for."""
        sent = sum(len(message[part].encode()) for message in _messages(prompt) for part in ("role", "content"))
        with purse.request(sent, limits.max_reply_tokens) as bill:
            try:
                response = send(prompt, dict(sampling))
            except sdk.APIError as error:
                if _surely_free(sdk, error):
                    bill.settle(0, 0)
                raise
            try:
                reply = read(json.loads(response.http_response.text))
            except (ValueError, LookupError, TypeError, AttributeError):
                return Reply(ending="unreadable")
            if reply.prompt_tokens:
                bill.settle(reply.prompt_tokens, reply.completion_tokens)
            return reply

    def with_temperature_or_without(prompt: Prompt) -> Reply:
        try:
            return once(prompt)
        except sdk.BadRequestError as error:
            if "temperature" not in str(error):
                raise
            if sampling.pop("temperature", None) is not None:
                logger.warning("%s does not accept a temperature; without one its verdicts may vary", spec.name)
        return once(prompt)

    # Not by the libraries' own retries: the purse pays for each request.
    passing, stop = retry_if_exception(partial(_passing, sdk)), stop_after_attempt(1 + limits.transport_retries)
    tries = Retrying(retry=passing, wait=_pause_seconds, stop=stop, reraise=True)

    def ask(prompt: Prompt) -> Reply:
        try:
            return tries(with_temperature_or_without, prompt)
        except sdk.APIError as error:
            # Without the cause: a service may repeat the key in what it says, and a traceback would show it.
            raise _ours(sdk, error, spec, key, sampling) from None

    return ask


def _passing(sdk: Any, error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, sdk.APIConnectionError):  # a time-out is one too
        return True
    status = getattr(error, "status_code", 0)
    return (status in (408, 409, 429) or status >= 500) and getattr(error, "code", "") != "insufficient_quota"


def _surely_free(sdk: Any, error: Exception) -> bool:
    """Whether a failed request was answered by an error or never arrived, and was not lost on the way."""
    if not isinstance(error, sdk.APIConnectionError):
        # These are a gateway's, which gave up on a service that may well have finished.
        return getattr(error, "status_code", 0) not in (408, 502, 504, 524)
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def _pause_seconds(failed: RetryCallState) -> float:
    """The pause before a retry: Retry-After up to a limit, otherwise growing with each retry, with random variation."""
    assert failed.outcome is not None
    response = getattr(failed.outcome.exception(), "response", None)
    try:
        asked = float(response.headers.get("retry-after")) if response is not None else 0.0
    except (TypeError, ValueError):  # none, or a date
        asked = 0.0
    if asked > 0:
        return min(asked, _LONGEST_PAUSE_TAKEN_SECONDS)
    return _USUAL_PAUSE(failed) * random.uniform(0.75, 1.0)


def _openai(model: str, url: str, key: str, limits: Limits) -> _Protocol:
    import openai

    client = openai.OpenAI(api_key=key, base_url=url, timeout=limits.timeout_seconds, max_retries=0)

    def send(prompt: Prompt, sampling: dict[str, Any]) -> Any:
        messages: Any = _messages(prompt)
        return client.chat.completions.with_raw_response.create(
            model=model, messages=messages, max_completion_tokens=limits.max_reply_tokens, extra_body=sampling
        )

    def read(body: dict[str, Any]) -> Reply:
        [choice] = body["choices"]
        message = choice["message"]
        endings = {"stop": "finished", "length": "cut off", "content_filter": "refused"}
        ending: Any = "refused" if message.get("refusal") else endings.get(choice["finish_reason"], "unreadable")
        used, text = _used(body, "prompt_tokens", "completion_tokens"), message.get("content") or ""
        return Reply(text=text, ending=ending, first_token=_first_token(choice), **used)

    return openai, send, read


def _anthropic(model: str, url: str, key: str, limits: Limits) -> _Protocol:
    import anthropic

    # The library adds /v1 itself.
    base_url = url.rstrip("/").removesuffix("/v1")
    client = anthropic.Anthropic(api_key=key, base_url=base_url, timeout=limits.timeout_seconds, max_retries=0)

    def send(prompt: Prompt, sampling: dict[str, Any]) -> Any:
        messages: Any = _messages(prompt)
        return client.messages.with_raw_response.create(
            model=model,
            messages=messages,
            max_tokens=limits.max_reply_tokens,
            # The library's own signature has no temperature any more, though the protocol does.
            extra_body=sampling,
        )

    def read(body: dict[str, Any]) -> Reply:
        text = "".join(block["text"] for block in body["content"] if block["type"] == "text")
        endings = {"end_turn": "finished", "max_tokens": "cut off", "refusal": "refused"}
        ending: Any = endings.get(body["stop_reason"], "unreadable")
        return Reply(text=text, ending=ending, **_used(body, "input_tokens", "output_tokens"))

    return anthropic, send, read


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _first_token(choice: dict[str, Any]) -> dict[str, float]:
    """Token -> log-probability of the candidates for a choice's first token; those of the same text are one."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    found: dict[str, float] = {}
    for other in tokens[0]["top_logprobs"] if tokens else ():
        found[other["token"]] = float(np.logaddexp(found.get(other["token"], -math.inf), float(other["logprob"])))
    return found


def _used(body: dict[str, Any], prompt_tokens: str, completion_tokens: str) -> dict[str, Any]:
    """The tokens that a body says were used, under these names."""
    usage = body.get("usage") or {}
    names = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {ours: int(usage.get(theirs) or 0) for ours, theirs in names.items()}


def _ours(sdk: Any, error: Exception, spec: JudgeSpec, key: str, sent: dict[str, Any]) -> Exception:
    """The library's error as JudgeFailed, or as InputError if every prompt would meet it."""
    status = getattr(error, "status_code", 0)
    said = masked(str(error).replace(key, "***"))[:300]
    if isinstance(error, sdk.APITimeoutError):
        return JudgeFailed("timed out", f"judge '{spec.name}' gave no answer in time")
    if isinstance(error, sdk.APIConnectionError):
        return JudgeFailed("unreachable", f"judge '{spec.name}' could not be reached or broke off")
    if status in (401, 403):
        return InputError(f"judge '{spec.name}' refuses the key ({said}); correct {key_variable(spec.service)}")
    if status == 404:
        return InputError(
            f"the service does not know judge '{spec.name}' ({said}); name a model that it serves, and check the "
            "address (an OpenAI-compatible one usually ends in /v1)"
        )
    if status == 402 or getattr(error, "code", "") == "insufficient_quota":
        return InputError(
            f"judge '{spec.name}' asks for payment ({said}); check the account, then run the command again"
        )
    if status == 400 and "logprobs" in sent and "logprob" in said:
        return InputError(
            f"judge '{spec.name}' gives no log-probabilities ({said}); use a judge with a plain verdict, openai:MODEL"
        )
    reason = "rate limited" if status == 429 else "service fault" if status >= 500 else "request rejected"
    return JudgeFailed(reason, f"judge '{spec.name}' answered: {said}")
