"""Credentials taken out of text."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")
_NAMED_SECRET = re.compile(r"(?i)\b(api[_-]?key|access[_-]?token|token|secret|password|passwd)=[^&\s'\",;)]+")
_KNOWN_TOKEN = re.compile(r"\b(hf_|sk-|ghp_|github_pat_)[A-Za-z0-9_-]{12,}")


def masked(text: str) -> str:
    """The text with credentials in addresses, `token=...` and well-known token shapes replaced by `***`."""
    text = _CREDENTIALS.sub("***@", text)
    text = _NAMED_SECRET.sub(r"\1=***", text)
    return _KNOWN_TOKEN.sub(r"\1***", text)
