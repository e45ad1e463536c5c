"""A judge's server on localhost."""

import pytest

from tests.support.standins.judge_server import JudgeServer


@pytest.fixture
def server(monkeypatch):
    """A judge that prefers the longer answer; keys are not set, as on a machine that has none."""
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with JudgeServer() as running:
        yield running
