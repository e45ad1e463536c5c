"""Names of preference judges, with address and price.

A preference judge is named `tiny`; `weighted_alpaca_eval_gpt-4o-mini-2024-07-18` or `claude-haiku-4-5-20251001`;
`openai:MODEL` or `anthropic:MODEL` (a verdict in words); `weighted:MODEL` (log-probabilities by OpenAI's protocol);
or `hf:FOLDER`. Judges over the network may end with `@URL` of a compatible service and `,price=IN/OUT`.
"""

import re
from dataclasses import dataclass
from typing import Literal

from eval_workers.judging.costs import FREE, PRICES, Price, read_price
from eval_workers.judging.specs import JudgeSpec, check_judge_spec
from mmpo_train.errors import InputError
from mmpo_train.redaction import masked
from mmpo_train.typed.plugins import judge_of

WEIGHTED = {
    "weighted_alpaca_eval_gpt-4o-mini-2024-07-18": "gpt-4o-mini-2024-07-18",
    "weighted_alpaca_eval_gpt4_turbo": "gpt-4-1106-preview",
}
"""Published annotators of alpaca_eval 0.6.6 -> the OpenAI model they ask."""
CLAUDE = "claude-haiku-4-5-20251001"
USUAL_JUDGES = (next(iter(WEIGHTED)), CLAUDE)
"""AlpacaEval's judges if none are named."""
KNOWN = (
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
        raise InputError(f"preference judge {masked(spec)!r} is unknown; expected one of {KNOWN}. Correct the name")
    client = check_judge_spec(model + address)
    return PreferenceSpec(
        kind="labels" if weighted else "verdict",
        label=label,
        client=client,
        price=read_price(price) if priced else PRICES.get(client.model),
    )
