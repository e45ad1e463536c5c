"""Credentials taken out of text. The one place for it: whatever shows, logs or stores text from outside asks here.

A credential is known by the name in front of it, by its place in an address or a header, or by its shape. Names that
text and numbers have too (`eos_token`, `tokens_per_pass`) are left alone. Standard library only.
"""

import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

# How names of secrets end. Most tokens of this field are pieces of text: eos_token, seconds_per_token.
_SURE = (
    r"(?:pass(?:word|wd|phrase|code)s?|(?:db|smtp|user)_?pass|pwd(?!=[/~])|(?-i:PASS(?<=[A-Z0-9]_PASS)(?<!PER_PASS))"
    r"|(?:access|account|api|auth|client|encryption|master|private|secret|service|shared|signing|ssh|storage)"
    r"[_-]?(?:access[_-]?)?keys?(?:[_-]?id)?|(?-i:KEY(?<=[A-Z0-9]_KEY)))(?:[_-](?:\d{1,2}|base|value))?"
)
_OF_TEXT = (
    "a",
    "any|bos|cls|end|eos|eot|max|min|new|num|one|out|pad|per|sep|unk",
    "each|last|mask|next|page|stop|text",
    "added|audio|begin|first|image|input|start",
    "output|prompt",
    "decoded|special",
    "completion",
)
_TOKEN = "".join(rf"(?<!(?:{words})[_ -]token)" for words in _OF_TEXT)
_TOKEN = rf"(?:(?:secrets?|credentials?|token{_TOKEN})(?:[_-]\d{{1,2}})?)"
_NAMES = ("pass", "pwd", "key", "token", "secret", "credential", "_auth")
_QUOTE, _IS = r"""(?:\\*["'])?""", r"[ \t]*(?:=>|:=|[:=])[ \t]*"
# In quotes as far as they reach; else up to a blank or a closing character. What closes and is followed by more of a
# word belongs to the value, unless the next `name=` begins there.
_VALUE = r"""
    (?!(?:str|int|bytes|bool|none|null|true|false|optional|(?:not[ ])?set|unset)(?:[\s,;.)\]}|\"'=]|$)|~/)
    (?:(?P<open>(?P<nested>\\+)?(?P<kind>["']))
        (?:(?!(?P=open)(?!\w))(?:\\.|(?(nested)(?!(?P=kind)))[^\\\r\n]))+(?P<close>(?P=open))?
    |(?![=<({\[])(?:[^\s"'`&;,)}\]>|\\]|\\(?!["'])|["'&;,)}\]](?=\w)(?![\w.-]+=))+)
"""
_NO_NUMBER = r"""(?![\d.,:%e+-]+(?:[\s"',;)}\]]|$))"""
_NO_PROSE = _NO_NUMBER + r"""(?=\\*["']?(?!https?://|[~.]?/)(?=[^\s"']*\d|[^\s"']{16})[^\s"']{6})"""
# How the keys of services begin; those of the second kind begin other words, too.
_KEYS = (
    r"gh[oprsu]_|github_pat_|gl(?:agent|cbt|dt|ft|pat|ptt|rt|soat)-|glsa_|xox[a-z][-.]|xapp-|AIza|ya29\.|GOCSPX-"
    r"|pypi-Ag|dckr_[op]at_|do[op]_v1_|nvapi-|tgp_v1_|lsv2_(?:pt|sk)_|wandb_v1_|AGE-SECRET-KEY-1|tskey-|whsec_"
    r"|[rs]k_(?:live|test)_|sq0[a-z]{3}-|shp(?:at|ca|pa|ss)_|sntry[su]_|AT[AC]TT3"
    r"|hooks\.slack\.com/services/|discord(?:app)?\.com/api/webhooks/|\d{6,}:AA"
)
_WORDS = r"sk-|npm_|SG\.|gsk_|xai-|r8_|pplx-|dapi|hvs\.|dp\.(?:ct|pt|st)\."

# What a text must hold, in small letters, for the pattern to be tried; the groups `head`, `open` and `close` stay.
_PATTERNS = (
    (("private key",), r"""(?P<head>-----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY[ A-Z]*-----)[^"']*?(?=-----END[ ]|["']|\Z)"""),
    # The last @ of the host's part, or of the whole where a password holds a slash: `user:pa/ss@`, but not `host:80/`.
    (
        ("://",),
        r"""(?P<head>://)(?:[^\s/?#'",@]{0,99}:(?!\d+(?:[/?#,]|$))[^\s'"]{0,299}
        |(?:[^\s/?#'",]|(?<=\w)['"](?=\w)){0,299})(?=@)""",
    ),
    (
        ("authorization", "cookie"),
        r"""(?P<head>\b(?:(?:proxy-)?authorization|(?:set-)?cookie)\\*["']?\s*[:=]\s*\\*["']?)[^\s"'\\][^"'\r\n\\]*""",
    ),
    (("bearer",), r"(?P<head>(?-i:\b[Bb]earer)\s+)(?!(?:auth|scheme|token|credential)\w*\b)[\w.~+/=-]{6,}"),
    (("basic",), r"(?P<head>\bBasic\s+)(?-i:(?=\S*(?:[a-z][A-Z]|\d|=)))[A-Za-z0-9+/]{6,}={0,2}"),
    (_NAMES, rf"(?P<head>{_SURE}{_QUOTE}{_IS}|(?:{_TOKEN}|_auth){_QUOTE}(?:=>?|:=)|(?:{_SURE}|{_TOKEN})%3d){_VALUE}"),
    (
        _NAMES,
        rf"""(?P<head>(?:[a-z0-9][_-]{_TOKEN}{_QUOTE}|(?:[a-z]{_TOKEN}|secret)\\*["']){_IS}){_NO_NUMBER}{_VALUE}""",
    ),
    (_NAMES, rf"(?P<head>(?:{_TOKEN}|api[ ]key){_QUOTE}{_IS}){_NO_PROSE}{_VALUE}"),
    (("--",), rf"""(?P<head>(?<![\w-])--[\w-]{{0,40}}?(?:{_SURE}|{_TOKEN})(?:["'],)?[ \t]+)(?!-){_VALUE}"""),
    (("login ",), rf"(?P<head>\blogin[ ]\S+[ ]password[ ]+){_VALUE}"),
    (("-u", "user"), r"""(?P<head>(?:\s-u|--(?:proxy-)?user)[ =]\\*["']?)(?!\d+:\d+)[\w.@-]+:[^\s"'\\]+"""),
    # Signed addresses.
    (
        ("=",),
        r"""(?P<head>[?&](?:[\w.-]{0,40}[_.-])?(?:auth|code|jwt|key|pass|pw|session|sid|sig|signature)=)[^\s&"'<>\\]+""",
    ),
    (("sig",), r"(?P<head>\bsig(?:nature)?=)(?=[^\s&,]*[\d%])(?![\d.e-]+(?:[\s,;)]|$))[\w%+/=.~-]{6,}"),
    (("hf_", "api_org_"), r"(?-i:(?P<head>\b(?:hf|api_org)_)(?:(?=[A-Za-z]*\d)[A-Za-z0-9]{8,}|[A-Za-z0-9]{12,}))"),
    (("a",), r"(?-i:(?P<head>\b(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA|A3T[A-Z0-9]))[A-Z0-9]{12,}\b)"),
    (("eyj",), r"(?-i:(?P<head>\beyJ)[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*)*)"),
    (("_", "-", "3", ".", "aiza", ":aa"), rf"(?-i:(?P<head>\b(?:{_KEYS}))[\w/-]{{6,}}(?:\.[\w-]+)*)"),
    (
        ("_", "-", ".", "dapi"),
        rf"(?-i:(?P<head>\b(?:{_WORDS}))(?=[\w-]{{0,99}}(?:\d|[A-Za-z]{{16}}))[\w-]{{8,}}(?:\.[\w-]+)*)",
    ),
)
_COMPILED = [(needed, re.compile(pattern, re.IGNORECASE | re.VERBOSE)) for needed, pattern in _PATTERNS]


def masked(text: str) -> str:
    """The text with every credential in it replaced by `***`. Masked text stays as it is."""
    small = text.lower()
    for needed, pattern in _COMPILED:
        if any(one in small for one in needed):
            text = pattern.sub(_replacement, text)
    return text


def _replacement(found: re.Match[str]) -> str:
    named = found.groupdict()
    return f"{named['head']}{named.get('open') or ''}***{named.get('close') or ''}"


def masked_values(value: Any) -> Any:
    """JSON-able values with their texts masked; a text whose key names a secret is masked whole."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: "***" if one and _names_a_secret(key, one) else masked_values(one) for key, one in value.items()}
    return [masked_values(one) for one in value] if isinstance(value, list | tuple) else value


def _names_a_secret(key: str, value: Any) -> bool:
    return isinstance(value, str) and masked(f"{key}=x").endswith("***")


def mask_logs() -> None:
    """From here on no log record and no traceback of this process shows a credential, a library's included."""
    if isinstance(make := logging.getLogRecordFactory(), _Masking):
        return  # of an earlier program of this process
    logging.setLogRecordFactory(_Masking(make))
    sys.excepthook = lambda *raised: print(_masked_traceback(*raised), file=sys.stderr)


class _Masking:
    """Makes log records without credentials."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self.make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        made = self.make(*arguments, **named)
        made.msg, made.args = masked(made.getMessage()), ()
        if made.exc_info:
            made.exc_text = _masked_traceback(*made.exc_info)
        return made


def _masked_traceback(*raised: Any) -> str:
    return masked("".join(traceback.format_exception(*raised)).rstrip())
