"""Every way in which a judge over real HTTP fails, and keys that show nowhere."""

import logging
import pickle
import time

import pytest

from eval_workers.judging import judges
from eval_workers.judging.clients import Limits
from eval_workers.judging.judges import JudgeCount, judge_all, open_judge
from eval_workers.judging.verdicts import LOSS, JudgeFailed
from mmpo_train.errors import InputError
from tests.support.standins import judge_server
from tests.support.standins.judge_server import Fault
from tests.support.standins.judges import KEY, LASTING, LONG, PROTOCOLS, QUICK, SHORT, Scripted


@PROTOCOLS
@pytest.mark.parametrize("fault", [judge_server.RATE_LIMITED, judge_server.SERVER_ERROR], ids=["429", "500"])
def test_a_passing_fault_of_the_service_is_retried(server, protocol, fault):
    server.faults = [fault, fault]
    assert open_judge(server.spec(protocol), limits=QUICK).compare("Why?", SHORT, LONG) == LOSS
    assert len(server.requests) == 3


@PROTOCOLS
def test_a_limited_service_gets_the_time_it_asks_for(server, protocol):
    """0.8 seconds; the libraries' own first pause is half a second at most."""
    server.faults = [Fault(status=429, retry_after_seconds=0.8)]
    started = time.monotonic()
    open_judge(server.spec(protocol), limits=QUICK).compare("Why?", SHORT, LONG)
    assert time.monotonic() - started > 0.8


@PROTOCOLS
@pytest.mark.parametrize("fault", judge_server.WITHOUT_VERDICT.values(), ids=judge_server.WITHOUT_VERDICT)
def test_a_reply_without_a_verdict_is_asked_for_once_more(server, protocol, fault):
    judge = open_judge(server.spec(protocol), limits=QUICK)
    server.faults = [fault]
    assert judge.compare("Why?", SHORT, LONG) == LOSS
    server.faults = [fault, fault]
    with pytest.raises(JudgeFailed, match="without a single verdict"):
        judge.compare("Why?", SHORT, LONG)
    assert len(server.requests) == 4


@PROTOCOLS
@pytest.mark.parametrize(
    "fault, retries, reason, requests",
    LASTING,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_that_stays_is_a_failure_with_its_reason(server, protocol, fault, retries, reason, requests):
    server.fault_of = lambda request: fault
    judge = open_judge(server.spec(protocol), limits=Limits(timeout_seconds=0.3, transport_retries=retries))
    with pytest.raises(JudgeFailed) as failure:
        judge.compare("Why?", SHORT, LONG)
    assert failure.value.reason == reason and str(failure.value).startswith(f"{reason}: judge '{judge.name}'")
    assert len(server.requests) == requests
    assert pickle.loads(pickle.dumps(failure.value)).reason == reason


@PROTOCOLS
def test_a_judge_that_takes_no_temperature_is_asked_without(server, protocol, caplog):
    server.fault_of = lambda request: Fault(
        status=400 if "temperature" in request.body else 200, message="temperature is not supported"
    )
    judge = open_judge(server.spec(protocol), limits=QUICK)
    assert [judge.compare("Why?", SHORT, answer) for answer in (LONG, LONG + "!")] == [LOSS, LOSS]
    assert ["temperature" in request.body for request in server.requests] == [True, False, False]
    assert caplog.text.count("does not accept a temperature") == 1


@PROTOCOLS
@pytest.mark.parametrize(
    "fault, advice",
    [
        (judge_server.UNAUTHORISED, "refuses the key.*correct (OPENAI|ANTHROPIC)_API_KEY"),
        (Fault(status=403), "refuses the key"),
        (judge_server.UNKNOWN_MODEL, "no such model.*name a model that it serves, and check the address"),
        (Fault(status=402), "check the account"),
    ],
    ids=["401", "403", "404", "402"],
)
def test_what_every_prompt_would_meet_stops_at_once(server, protocol, fault, advice, monkeypatch):
    monkeypatch.setattr(judges, "CONCURRENCY", 4)
    server.fault_of = lambda request: fault
    judge = open_judge(server.spec(protocol), limits=QUICK)
    with pytest.raises(InputError, match=advice):
        judge_all(judge, [f"Question {n}?" for n in range(200)], [[SHORT, LONG]] * 200)
    assert len(server.requests) < 20


def test_an_account_without_credit_stops_at_once(server):
    server.fault_of = lambda request: Fault(status=429, code="insufficient_quota", retry_after_seconds=0.05)
    with pytest.raises(InputError, match="asks for payment"):
        open_judge(server.spec(), limits=QUICK).compare("Why?", SHORT, LONG)


def test_a_judge_that_fails_everything_is_given_up(server, monkeypatch):
    monkeypatch.setattr(judges, "CONCURRENCY", 2)
    monkeypatch.setattr(judges, "GIVE_UP_AFTER", 5)
    server.fault_of = lambda request: judge_server.REFUSED
    judge = open_judge(server.spec(), limits=QUICK)
    with pytest.raises(InputError, match=r"failed 5 questions in a row \(refused to judge: 5\)"):
        judge_all(judge, [str(n) for n in range(100)], [[SHORT, LONG]] * 100)
    assert len(server.requests) < 40


def test_a_judge_that_fails_now_and_then_is_not_given_up(monkeypatch):
    for name, value in {"CONCURRENCY": 1, "ATTEMPTS": 1, "GIVE_UP_AFTER": 2}.items():
        monkeypatch.setattr(judges, name, value)
    judge = Scripted(failures=[True, False] * 5)
    winners, count = judge_all(judge, ["?"] * 10, [["1", "2"]] * 10)
    assert winners == [None, 1] * 5 and count == JudgeCount(judged=5, dropped=5, reasons={"timed out": 5})


@PROTOCOLS
def test_the_key_comes_from_the_environment_and_shows_nowhere(server, protocol, monkeypatch, caplog, tmp_path):
    variable = f"{protocol.upper()}_API_KEY"
    monkeypatch.setenv(variable, KEY + "\n")
    caplog.set_level(logging.DEBUG)
    server.key = KEY
    judge = open_judge(server.spec(protocol), cache=tmp_path / "verdicts.sqlite", limits=QUICK)
    assert judge.compare("Why?", SHORT, LONG) == LOSS
    said = [repr(judge), str(vars(judge))]
    for status, error in ((401, InputError), (400, JudgeFailed)):
        server.faults = [Fault(status=status, message=f"what is {KEY}?")]
        with pytest.raises(error) as refusal:
            judge.compare("Why?", SHORT, LONG + "!")
        assert refusal.value.__suppress_context__ and "what is ***?" in str(refusal.value)
        said += [str(refusal.value), repr(refusal.value), str(refusal.getrepr(style="short"))]
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert KEY not in "".join(said) and KEY not in caplog.text and KEY.encode() not in on_disk


@pytest.mark.parametrize("spec", ["openai:gpt", "anthropic:claude", "openai:m@http://192.0.2.1/v1"])
def test_a_missing_key_is_named(server, spec, monkeypatch):
    variable = "OPENAI_API_KEY" if spec.startswith("openai") else "ANTHROPIC_API_KEY"
    with pytest.raises(InputError, match=f"needs a key, but {variable} is not set"):
        open_judge(spec)
    monkeypatch.setenv(variable, "two\nlines")
    with pytest.raises(InputError, match=variable) as refusal:
        open_judge(spec)
    assert "lines" not in str(refusal.value)
