"""Names of judges, with address and price, and where their keys are. Standard library only.

A preference judge is named `tiny`; `weighted_alpaca_eval_gpt-4o-mini-2024-07-18` or `claude-haiku-4-5-20251001`;
`openai:MODEL` or `anthropic:MODEL` (a verdict in words); `weighted:MODEL` (log-probabilities by OpenAI's protocol);
or `hf:FOLDER`. Judges over the network may end with `@URL` of a compatible service and `,price=IN/OUT`.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from eval_workers.judging.costs import FREE, PRICES, Price, read_price
from mmpo_train.errors import InputError
from mmpo_train.redaction import masked
from mmpo_train.typed.plugins import judge_of

KNOWN = "tiny, openai:MODEL, openai:MODEL@http://host:port/v1, anthropic:MODEL, anthropic:MODEL@URL"
DEFAULT_URLS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}


IN_THIS_PROCESS = ("tiny", "plug-in")
"""Services that need neither network nor key, and cost nothing."""


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """The parts of a judge's name."""

    service: str
    """'tiny', 'openai', 'anthropic' or 'plug-in'."""
    model: str = ""
    url: str = ""
    """Address; empty for the service's own."""

    @property
    def name(self) -> str:
        """The name, put together again."""
        return self.service + (f":{self.model}" if self.model else "") + (f"@{self.url}" if self.url else "")


def check_judge_spec(spec: str) -> JudgeSpec:
    """The parts of `spec`. Raises InputError. Opens nothing, and loads only the standard library."""
    if spec == "tiny":
        return JudgeSpec(service="tiny")
    if judge_of(spec):
        return JudgeSpec(service="plug-in", model=spec)
    parts = re.fullmatch(r"(openai|anthropic):(\S+?)(?:@(https?://\S+))?", spec)
    shown = masked(spec)
    if parts is None or "://" in parts[2]:
        raise InputError(f"judge {shown!r} is unknown; expected one of {KNOWN}. Correct the name")
    service, model, url = parts[1], parts[2], parts[3] or ""
    try:
        address = urlsplit(url)
        usable = not url or (bool(address.hostname) and address.port != 0)
    except ValueError:
        usable = False
    if not usable or "@" in url or "?" in url or "#" in url:
        raise InputError(
            f"judge {shown!r} has an address that cannot be used; expected http://host:port/v1, without user, password "
            f"or '?'. Put the key into {key_variable(service)}"
        )
    return JudgeSpec(service=service, model=model, url=url.rstrip("/"))


def key_variable(service: str) -> str:
    """The environment variable that holds the service's key."""
    return f"{service.upper()}_API_KEY"


def key_of(spec: JudgeSpec) -> str:
    """The service's key. A service on this machine needs none."""
    variable = key_variable(spec.service)
    key = os.environ.get(variable, "").strip()
    if not key:
        if _is_this_machine(urlsplit(spec.url).hostname or ""):
            return "no-key"
        raise InputError(
            f"judge '{spec.name}' needs a key, but {variable} is not set; export {variable} on the machine that judges"
        )
    # Anything else fails deep in the HTTP library, with the key in its message.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{variable} holds characters that no key has; export it again")
    return key


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


WEIGHTED = {
    "weighted_alpaca_eval_gpt-4o-mini-2024-07-18": "gpt-4o-mini-2024-07-18",
    "weighted_alpaca_eval_gpt4_turbo": "gpt-4-1106-preview",
}
"""Published annotators of alpaca_eval 0.6.6 -> the OpenAI model they ask."""
CLAUDE = "claude-haiku-4-5-20251001"
USUAL_JUDGES = (next(iter(WEIGHTED)), CLAUDE)
"""AlpacaEval's judges if none are named."""
KNOWN_PREFERENCES = (
    f"tiny, {', '.join(WEIGHTED)}, {CLAUDE}, openai:MODEL, anthropic:MODEL, weighted:MODEL, any of these but tiny with "
    "@http://host:port/v1 and with ,price=IN/OUT, or hf:FOLDER"
)


@dataclass(frozen=True, kw_only=True)
class PreferenceSpec:
    """The parts of a preference judge's name."""

    kind: Literal["marks", "labels", "verdict", "local labels"]
    """Its form of judgement: marks by rules, log-probabilities of two labels, or a verdict in words."""
    label: str
    """The name without address and price."""
    client: JudgeSpec = JudgeSpec(service="tiny")
    """Service, model and address to ask."""
    folder: str = ""
    """Folder of a local model."""
    price: Price | None = None
    """Its price; None if not known."""

    @property
    def address(self) -> str:
        """The address, as the end of the name."""
        return f"@{self.client.url}" if self.client.url else ""


def check_preference_spec(spec: str) -> PreferenceSpec:
    """The parts of `spec`. Raises InputError. Opens nothing, and loads only the standard library."""
    if spec == "tiny" or judge_of(spec):
        return PreferenceSpec(kind="marks", label=spec, price=FREE)
    if spec.startswith("hf:") and len(spec) > len("hf:"):
        return PreferenceSpec(kind="local labels", label=spec, folder=spec.removeprefix("hf:"), price=FREE)
    written, priced, price = spec.partition(",price=")
    parts = re.fullmatch(r"(\S+?)(@https?://\S*)?", written)
    label, address = (parts[1], parts[2] or "") if parts else (written, "")
    weighted = label in WEIGHTED or label.startswith("weighted:")
    if weighted:
        model = f"openai:{WEIGHTED.get(label, label.removeprefix('weighted:'))}"
    elif label == CLAUDE:
        model = f"anthropic:{CLAUDE}"
    elif label.startswith(("openai:", "anthropic:")):
        model = label
    else:
        raise InputError(
            f"preference judge {masked(spec)!r} is unknown; expected one of {KNOWN_PREFERENCES}. Correct the name"
        )
    client = check_judge_spec(model + address)
    return PreferenceSpec(
        kind="labels" if weighted else "verdict",
        label=label,
        client=client,
        price=read_price(price) if priced else PRICES.get(client.model),
    )
