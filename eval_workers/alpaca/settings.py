"""Settings of AlpacaEval: its prompts, how they are answered, and its judges."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eval_workers.alpaca.data import OFFICIAL, TINY
from eval_workers.answers.sampling import Sampling
from eval_workers.judging.checks import PAIRS
from eval_workers.judging.preference_specs import check_preference_spec
from mmpo_train.errors import InputError, complaints


@dataclass(frozen=True, kw_only=True)
class AlpacaSettings:
    """Prompts, sampling and judges. The sampling is the one that the paper's author used."""

    prompts: str = OFFICIAL
    """`alpaca_eval` (the 805, from the hub or its cache), `tiny` (validation prompts of the embedded data), or a file:
    JSON list or JSONL of {instruction} or {prompt}, or one prompt a line."""
    judges: tuple[str, ...] = ("weighted_alpaca_eval_gpt-4o-mini-2024-07-18", "claude-haiku-4-5-20251001")
    """Names of the judges (see `judging/preference_specs.py`)."""
    template: Path | None = None
    """A file with another prompt for the judges. Judges that name a label and judges that give a verdict need different
    prompts, so all judges must be of one kind."""
    both_orders: bool = False
    """Show each pair in both orders, at twice the price; otherwise in one order, drawn by the seed."""
    checked_pairs: int = PAIRS
    """Pairs on which each judge is checked (`judging/checks.py`); 0 asks nothing more."""
    cap_usd: float | None = None
    """The most that each judge may cost during the life of this object, in USD."""
    temperature: float = 0.95
    """Sampling temperature; 0 takes the likeliest token."""
    top_p: float = 0.8
    """Sample from the fewest tokens whose probabilities add up to at least this."""
    max_new_tokens: int = 4096
    """Longest answer in tokens."""
    precision: str = "bf16"
    """Precision of the answering models, 'bf16' or 'fp32'."""
    seed: int = 0
    """Seed of the answers, and of the order in which they are shown."""
    limit: int = 0
    """Number of prompts to use, evenly spread over all; 0 uses all."""
    difficulty: Path | None = None
    """File of instruction difficulties (`data.read_difficulty`); None takes them from the gamed rows' file."""
    gamed: Path | None = None
    """File of gamed rows (`data.read_gamed`); None fetches those of the 805 prompts; other prompts have none."""
    gamed_sha256: str = ""
    """Expected SHA-256 of the gamed rows' file, in hex; empty for any."""

    def __post_init__(self) -> None:
        wrong = []
        if self.precision not in ("bf16", "fp32"):
            wrong.append(f"precision is '{self.precision}', expected bf16 or fp32")
        if self.limit < 0:
            wrong.append(f"limit is {self.limit}, expected 0 (all) or more")
        if self.checked_pairs < 0:
            wrong.append(f"checked_pairs is {self.checked_pairs}, expected 0 (none) or more")
        if not self.judges:
            wrong.append("judges is empty, expected one or more")
        checks: list[Callable[[], object]] = [self.sampling]
        checks += [partial(check_preference_spec, spec) for spec in self.judges]
        wrong += complaints(checks)
        if wrong:
            raise InputError("; ".join(wrong))

    def sampling(self) -> Sampling:
        """The sampling of every answer."""
        return Sampling(
            temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens, seed=self.seed
        )


def tiny_settings() -> AlpacaSettings:
    """Settings for tiny: its validation prompts and judge, greedy answers of up to 128 tokens, no network."""
    return AlpacaSettings(
        prompts=TINY, judges=(TINY,), temperature=0.0, top_p=1.0, max_new_tokens=128, precision="fp32"
    )
