"""The attention kernel's calls: CUDA's own on a GPU, a stand-in for it in a rehearsal on a CPU."""

from typing import Any

import pytest
import torch

from mmpo_train.devices import own_device
from mmpo_train.model import attention
from tests.support.standins.kernel import stand_in


@pytest.fixture
def device() -> torch.device:
    return own_device()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each call."""
    if not torch.cuda.is_available():
        for name in ("_varlen_attn", "_has_kernel"):
            monkeypatch.setattr(attention, name, getattr(attention, name))  # what stand_in changes is put back
        calls = stand_in()
        monkeypatch.setattr(attention, "_has_kernel", lambda query: query.dtype in attention._KERNEL_DTYPES)
        return calls
    attend, takes = attention._varlen_attn()
    counts: list[int] = []

    def counted(query: Any, *rest: Any, **named: Any) -> Any:
        counts.append(len(query))
        return attend(query, *rest, **named)

    monkeypatch.setattr(attention, "_varlen_attn", lambda: (counted, takes))
    return counts
