"""The passes of a CPU whose steps are larger than the smallest ones: tried once, and kept for later trials."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig

from mmpo_train.engines import trying
from tests.support.standins.accelerator import Accelerator, found


class Processor(Accelerator):
    """The same as a CPU: it says nothing of its memory, and 512 tokens go at 2,000 a second, others as `speeds` has it.

    A try of more than `most` tokens ends the process.
    """

    def __init__(self, speeds: dict[int, float], most: int = 10**9, width: int = 64, **named: Any) -> None:
        def speed(tokens: int) -> float:
            return next((fast for size, fast in speeds.items() if 0.8 * size < tokens <= size), 2_000)

        super().__init__(lambda tokens: 0.0, speed, **named)
        self.module: Any = SimpleNamespace(model=SimpleNamespace(config=LlamaConfig(hidden_size=width)))
        self.most = most

    def memory_share(self) -> None:  # type: ignore[override]
        return None

    def pass_of(self, tokens: int) -> None:
        if tokens > self.most:
            raise SystemExit("killed")
        super().pass_of(tokens)

    def sum(self, values: np.ndarray) -> np.ndarray:
        if values.shape == (1,):  # what worker 0 has found
            return values
        return super().sum(values)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("speeds", "tokens"),
    [
        ({1_024: 1_800}, 512),
        ({1_024: 2_090}, 512),
        ({1_024: 2_110, 2_048: 2_150}, 1_024),
        ({1_024: 2_200, 2_048: 2_500, 4_096: 2_600}, 2_048),
        ({1_024: 2_090, 2_048: 9_000}, 512),
    ],
    ids=str,
)
def test_a_cpu_takes_the_smallest_passes_of_which_no_twice_as_large_ones_are_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, cache: Path, speeds: dict[int, float], tokens: int
) -> None:
    assert found(monkeypatch, Processor(speeds)).tokens == tokens


def test_a_cpu_is_tried_once_for_each_kind_of_trial(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def tried(speeds: dict[int, float], width: int = 64, **fields: Any) -> tuple[int, bool]:
        engine = Processor(speeds, width=width)
        return found(monkeypatch, engine, **fields).tokens, bool(engine.tried)

    slow, fast = {1_024: 1_800.0}, {1_024: 2_200.0}
    assert tried(fast) == (1_024, True)
    assert tried(slow) == (1_024, False)
    assert tried(slow, learning_rate=1e-3, objective="dpo") == (1_024, False)
    assert tried(slow, width=128) == (512, True)
    assert tried(slow, precision="bf16") == (512, True)
    assert tried(slow, tokens_per_pass=300) == (300, False)


def test_workers_on_a_cpu_agree_and_the_slowest_counts(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    both = Processor({1_024: 4_000}, peers=(Processor({1_024: 1_900}, worker=1),))
    assert found(monkeypatch, both).tokens == 512


def test_a_process_that_was_killed_while_it_tried_takes_the_size_before_that(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    faster = {1_024: 3_000.0, 2_048: 4_000.0}
    with pytest.raises(SystemExit):
        found(monkeypatch, Processor(faster, most=1_024))
    assert found(monkeypatch, Processor(faster)).tokens == 1_024


def test_a_size_for_which_memory_might_not_last_is_not_tried(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """512 tokens took 100 MiB: 400 must be left for 1,024, which take 100 more and the optimiser's moments."""
    for left, tokens in ((390, 512), (410, 1_024)):
        most = iter([0, 100 * 2**10, 500 * 2**10])
        monkeypatch.setattr(trying, "_most_memory", lambda most=most: next(most))
        monkeypatch.setattr(trying, "memory_left", lambda left=left: left * 2**20)
        assert found(monkeypatch, Processor({1_024: 3_000, 2_048: 4_000}, width=64 * left)).tokens == tokens


def test_a_cache_that_cannot_be_written_costs_a_try_and_no_error(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr("mmpo_train.storage.mirror.os.access", lambda place, how: False)
    for speed, tokens in ((1_800, 512), (2_200, 1_024)):
        assert found(monkeypatch, Processor({1_024: speed})).tokens == tokens
    assert not cache.exists()
