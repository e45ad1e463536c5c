"""Verdicts are kept and paid once."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from eval_workers.judging.judges import open_judge
from eval_workers.judging.preference_judges import open_preference_judge
from eval_workers.judging.verdicts import LOSS, WIN, JudgeFailed, VerdictCache, verdict_keys
from mmpo_train.errors import InputError
from tests.support.standins import judge_server
from tests.support.standins.judge_server import Fault, JudgeServer
from tests.support.standins.judges import LONG, QUICK, SHORT
from tests.support.workers import REPOSITORY


def test_a_verdict_is_paid_once(server, tmp_path):
    """By another judge of the same name, either way round, by eight threads at once, and by another process."""
    file = tmp_path / "cache" / "verdicts.sqlite"
    server.fault_of = lambda request: Fault(delay_seconds=0.05)
    judge = open_judge(server.spec(), cache=file, limits=QUICK)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: judge.compare("Why?", SHORT, LONG), range(8))) == {LOSS}
    assert len(server.requests) == 1
    assert open_judge(server.spec(), cache=file).compare("Why?", LONG, SHORT) == WIN
    program = (
        "import sys\nfrom pathlib import Path\nfrom eval_workers.judging.judges import open_judge\n"
        "print(open_judge(sys.argv[1], cache=Path(sys.argv[2])).compare(*sys.argv[3:]))"
    )
    command = [sys.executable, "-c", program, server.spec(), str(file), "Why?", SHORT, LONG]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout == "0.0\n"
    assert len(server.requests) == 1


def test_another_judge_prompt_question_or_answer_is_another_verdict(server, tmp_path):
    file, template = tmp_path / "verdicts.sqlite", tmp_path / "prompt.txt"
    template.write_text("{question} {answer_a} {answer_b} <verdict>")
    judge = open_judge(server.spec(), cache=file, limits=QUICK)
    judge.compare("Why?", SHORT, LONG)
    judge.compare("How?", SHORT, LONG)
    judge.compare("Why?", SHORT, LONG + "!")
    open_judge(server.spec(model="other"), cache=file, limits=QUICK).compare("Why?", SHORT, LONG)
    open_judge(server.spec(), cache=file, template=template, limits=QUICK).compare("Why?", SHORT, LONG)
    assert len(server.requests) == 5


@pytest.mark.parametrize("open_one", [open_judge, open_preference_judge], ids=["verdict", "label"])
def test_a_judge_that_has_moved_to_another_port_is_not_paid_twice(tmp_path, open_one):
    """Neither for what is kept now, nor for what earlier versions kept under the name with the port."""
    file = tmp_path / "verdicts.sqlite"

    def asked(server):
        if open_one is open_judge:
            spec = server.spec()
        else:
            server.text, server.probabilities = (lambda request: "m"), (lambda request: {"m": 0.9, "M": 0.1})
            spec = f"weighted:mini@{server.url}"
        return open_one(spec, cache=file, limits=QUICK).compare("Why?", SHORT, LONG)

    with JudgeServer() as first, JudgeServer() as second:
        expected = asked(first)
        assert asked(second) == expected
        assert (len(first.requests), len(second.requests)) == (1, 0)
    with JudgeServer() as third:
        file.unlink()
        with mock.patch(f"{open_one.__module__}.verdict_keys", lambda *parts: (verdict_keys(*parts)[1],) * 2):
            asked(third)
        assert asked(third) == expected and len(third.requests) == 1


def test_failures_are_not_kept(server, tmp_path):
    judge = open_judge(server.spec(), cache=tmp_path / "verdicts.sqlite", limits=QUICK)
    server.faults = [judge_server.REFUSED]
    with pytest.raises(JudgeFailed):
        judge.compare("Why?", SHORT, LONG)
    assert judge.compare("Why?", SHORT, LONG) == LOSS


def test_the_first_verdict_kept_stands(tmp_path):
    file = tmp_path / "verdicts.sqlite"
    quicker, slower = VerdictCache(file), VerdictCache(file)
    assert quicker.keep("0f", "a", "judge", "reply") == "a"
    assert slower.keep("0f", "b", "judge", "reply") == "a" == slower.recall("0f")
    quicker.close(), slower.close()


def test_several_processes_open_and_write_fresh_caches_at_the_same_moment(tmp_path):
    """Sixty files, four writers each, three verdicts a writer; none is lost, and nobody hears of a locked database."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom eval_workers.judging.verdicts import VerdictCache\n"
        "folder, name, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])\n"
        "for turn in range(60):\n"
        "    while time.time() < start + turn * 0.02: pass\n"
        "    cache = VerdictCache(folder / f'{turn}.sqlite')\n"
        "    for n in range(3): cache.keep(f'{name}{n}', 'tie', 'judge', 'reply')\n"
        "    cache.close()\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    start = str(time.time() + 1)
    writers = [
        subprocess.Popen([*arguments, name, start], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        for name in ("aa", "bb", "cc", "dd")
    ]
    assert [writer.communicate()[1] for writer in writers] == [""] * 4
    for turn in range(60):
        cache = VerdictCache(tmp_path / f"{turn}.sqlite")
        assert {cache.recall(f"{name}{n}") for name in ("aa", "bb", "cc", "dd") for n in range(3)} == {"tie"}
        cache.close()


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but long enough to be looked at as one\n" * 40)
    with pytest.raises(InputError, match="notes.txt cannot be used"):
        VerdictCache(file)
