"""A judge on localhost: an HTTP server that speaks OpenAI's and Anthropic's protocols, and fails when told to.

`with JudgeServer() as server:` and give `server.spec("openai")` as the judge. What it replies is decided by
`server.verdict` (or `server.text`), what goes wrong by `server.faults` and `server.fault_of`.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Protocol = Literal["openai", "anthropic"]
PATHS: dict[str, Protocol] = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    protocol: Protocol
    headers: dict[str, str]
    """Names in small letters."""
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The last message's text."""
        return self.body["messages"][-1]["content"]

    @property
    def key(self) -> str:
        """The key that came with it."""
        return self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")

    def shown(self, name: Literal["question", "answer-a", "answer-b"]) -> str:
        """What stands between the tags of that name, whatever their nonce."""
        found = re.search(rf"<{name}-(\w+)>\n(.*)\n</{name}-\1>", self.prompt, re.DOTALL)
        assert found, f"no <{name}-…> in the prompt:\n{self.prompt}"
        return found[2]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request; a plain `Fault()` is a request that goes well."""

    status: int = 200
    message: str = "as told by the test"
    """Of the error, with a status other than 200."""
    code: str | None = None
    """OpenAI's error code."""
    retry_after_seconds: float | None = None
    delay_seconds: float = 0.0
    """Before the answer."""
    text: str | None = None
    """Said instead of a verdict."""
    ending: Literal["finished", "cut off", "refused"] = "finished"
    body: str | None = None
    """Sent instead of anything well-formed."""
    hang_up: bool = False
    """The connection is closed without an answer."""


RATE_LIMITED = Fault(status=429, message="slow down", retry_after_seconds=0.1)
SERVER_ERROR = Fault(status=500, retry_after_seconds=0.05)
UNAUTHORISED = Fault(status=401, message="invalid key")
UNKNOWN_MODEL = Fault(status=404, message="no such model")
MALFORMED = Fault(body='{"choices": [{"mess')
CUT_OFF = Fault(text="Both are <verdict>A</verdict>", ending="cut off")
REFUSED = Fault(text="", ending="refused")
NO_VERDICT = Fault(text="I like both.")
TWO_VERDICTS = Fault(text="<verdict>A</verdict> or rather <verdict>B</verdict>")
WRONG_LABEL = Fault(text="<verdict>C</verdict>")
WITHOUT_VERDICT = {
    "malformed": MALFORMED,
    "cut off": CUT_OFF,
    "no verdict": NO_VERDICT,
    "two verdicts": TWO_VERDICTS,
    "wrong label": WRONG_LABEL,
}
"""Faults after which a whole reply came, but no verdict that can be read."""


def longer_wins(request: Request) -> str:
    """'A', 'B' or 'tie' by the length of the answers shown."""
    first, second = (len(request.shown(name)) for name in ("answer-a", "answer-b"))
    return "A" if first > second else "B" if second > first else "tie"


@dataclass
class JudgeServer:
    """The server, from `with` to its end. Its fields may be changed at any time."""

    verdict: Callable[[Request], str] = longer_wins
    """The label between the verdict tags."""
    text: Callable[[Request], str] | None = None
    """The whole reply, instead of an explanation and a verdict."""
    faults: list[Fault] = field(default_factory=list)
    """What the next requests meet, the first one first; then `fault_of` decides."""
    fault_of: Callable[[Request], Fault] = lambda request: Fault()
    key: str | None = None
    """The only key that is let in; None lets everyone in."""
    probabilities: Callable[[Request], dict[str, float] | list[tuple[str, float]]] | None = None
    """For OpenAI's top_logprobs: tokens with their probabilities, wherever one of them stands in the reply. Tokens of
    other bytes may have the same text."""
    usage: Callable[[Request, str], tuple[int, int]] = lambda request, text: (
        len(request.prompt.split()),
        len(text.split()),
    )
    """(prompt, completion) tokens that a request and its reply are charged for: words, unless told otherwise."""

    requests: list[Request] = field(default_factory=list)
    """All that arrived, the oldest first."""
    charged: list[tuple[int, int]] = field(default_factory=list)
    """(prompt, completion) tokens of every reply."""
    most_at_once: int = 0
    """Requests that were being answered at the same time."""

    def __enter__(self) -> JudgeServer:
        self._lock, self._closing, self._under_way = threading.Lock(), threading.Event(), 0
        self._http = _Server(("127.0.0.1", 0), _handler_of(self))
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        """The base address, with /v1."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def spec(self, protocol: str = "openai", model: str = "scripted") -> str:
        """The judge as it is written on a command line."""
        return f"{protocol}:{model}@{self.url}"

    def take(self, request: Request) -> Fault:
        """Note the request down; what it meets."""
        with self._lock:
            self.requests.append(request)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            if self.key is not None and request.key != self.key:
                return UNAUTHORISED
            fault = self.faults.pop(0) if self.faults else self.fault_of(request)
        self._closing.wait(fault.delay_seconds)
        return fault

    def done(self) -> None:
        """A request taken has been answered."""
        with self._lock:
            self._under_way -= 1

    def body(self, request: Request, fault: Fault) -> dict[str, Any]:
        """The answer as the request's protocol has it."""
        if fault.status != 200:
            error = {"type": "error", "message": fault.message, "code": fault.code}
            return {"type": "error", "error": error}
        text = fault.text
        if text is None:
            text = self.text(request) if self.text else f"It is clear.\n<verdict>{self.verdict(request)}</verdict>"
        sent, said = self.usage(request, text)
        with self._lock:
            self.charged.append((sent, said))
        if request.protocol == "openai":
            refused = fault.ending == "refused"
            choice = {
                "index": 0,
                "finish_reason": "length" if fault.ending == "cut off" else "stop",
                "message": {
                    "role": "assistant",
                    "content": None if refused else text,
                    "refusal": "I cannot do that." if refused else None,
                },
                "logprobs": self._logprobs(request, text) if request.body.get("logprobs") else None,
            }
            usage = {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said}
            head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": request.body["model"]}
            return head | {"choices": [choice], "usage": usage}
        endings = {"finished": "end_turn", "cut off": "max_tokens", "refused": "refusal"}
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": request.body["model"],
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": endings[fault.ending],
            "stop_sequence": None,
            "usage": {"input_tokens": sent, "output_tokens": said},
        }

    def _logprobs(self, request: Request, text: str) -> dict[str, Any]:
        """A token for every word and every mark; sure of itself, but where `probabilities` says otherwise."""
        given = self.probabilities(request) if self.probabilities else {}
        chances = list(given.items()) if isinstance(given, dict) else given
        wanted = request.body.get("top_logprobs", 0)
        content = []
        for token in re.findall(r"\w+|\W", text):
            here = chances if token in dict(chances) else [(token, 1.0)]
            likeliest = sorted(here, key=lambda item: -item[1])[:wanted]
            content.append(
                _token(token, dict(here)[token])
                | {"top_logprobs": [_token(other, chance) for other, chance in likeliest]}
            )
        return {"content": content, "refusal": None}


def _token(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(probability), "bytes": list(token.encode())}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that timed out has gone."""


def _handler_of(server: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer in two packets would wait for the first one's acknowledgement.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path not in PATHS:
                self._send(404, json.dumps({"error": {"message": f"no {self.path} here"}}), {})
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(PATHS[self.path], headers, json.loads(sent))
            fault = server.take(request)
            try:
                if fault.hang_up:
                    self.close_connection = True
                    return
                wait = fault.retry_after_seconds
                more = {"Retry-After": str(wait)} if wait is not None else {}
                text = fault.body if fault.body is not None else json.dumps(server.body(request, fault))
                self._send(fault.status, text, more)
            finally:
                server.done()

        def _send(self, status: int, text: str, headers: dict[str, str]) -> None:
            content = text.encode()
            self.send_response(status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *message: object) -> None:
            """Nothing: the tests look at `server.requests`."""

    return Handler


def shortest_wins(request: Request) -> str:
    first, second = (len(request.shown(name)) for name in ("answer-a", "answer-b"))
    return "A" if first < second else "B" if second < first else "tie"
