"""Names of judges over the network, and where their keys are. Standard library only."""

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mmpo_train.errors import InputError
from mmpo_train.redaction import masked

KNOWN = "tiny, openai:MODEL, openai:MODEL@http://host:port/v1, anthropic:MODEL, anthropic:MODEL@URL"
DEFAULT_URLS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """The parts of a judge's name."""

    service: str
    """'tiny', 'openai' or 'anthropic'."""
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
