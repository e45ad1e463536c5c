"""Win rates against published ones, against the library's own fit, and against what made the preferences."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval_workers.alpaca.data import checked, fetch, read_difficulty, read_gamed
from eval_workers.alpaca.length_control import Gamed, Judged, NoLengthControl, length_controlled_win_rate, win_rate
from mmpo_train.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[3]
PUBLISHED = ("FuseChat-Gemma-2-9B-Instruct", "claude-2", "gpt4_0613_concise", "vicuna-7b-v1.5")


def sigmoid(logit):
    return 1 / (1 + np.exp(-logit))


@pytest.fixture(scope="module")
def published():
    """The folder with published lengths and preferences: CC BY-NC, so beside the repository and not in it."""
    default = REPOSITORY / ".." / "shared" / "data" / "alpaca_eval"
    folder = Path(os.environ.get("ALPACA_EVAL_DATA", default))
    if not (folder / "published.json").exists():
        pytest.skip("the data of AlpacaEval is not beside this checkout (ALPACA_EVAL_DATA)")
    return folder


def judgements(rows=400, seed=0, weights=(1.5, 0.8, -0.4)):
    """Judgements whose preference is exactly that of the formula, difficulties, and the true rate at equal length.

    Answers to difficult instructions are longer here, so that leaving either feature out would be noticed.
    """
    random = np.random.default_rng(seed)
    difficulty = random.normal(size=rows)
    baseline = random.integers(600, 1400, rows)
    lengths = baseline + (300 * difficulty + random.normal(500, 300, rows)).astype(int)
    differences = baseline - lengths
    wins = sigmoid(
        np.column_stack([np.tanh(differences / differences.std(ddof=1)), difficulty, np.ones(rows)]) @ weights
    )
    judged = [
        Judged(f"instruction {number}", wins[number], int(lengths[number]), int(baseline[number]))
        for number in range(rows)
    ]
    known = {one.instruction: float(value) for one, value in zip(judged, difficulty)}
    return judged, known, float(sigmoid(weights[1] * difficulty + weights[2]).mean())


def gamed_rows(known, seed=1):
    """Two gamed rows an instruction, longer and shorter, the longer one preferred; as long answers are here not."""
    random = np.random.default_rng(seed)
    return [
        Gamed(float(random.uniform(0.4, 0.8) - 0.2 * brief), float(random.normal(2.0 * brief - 1, 0.5)), difficulty)
        for brief in (0, 1)
        for difficulty in known.values()
    ]


def test_the_win_rate_worked_by_hand():
    """1, 0, 0.5, 0.25: mean 7/16; squared deviations sum to 0.546875, a third of it is the variance, over 4 rows."""
    rate, error = win_rate([Judged("", won, 1, 1) for won in (1.0, 0.0, 0.5, 0.25)])
    assert rate == 7 / 16
    assert error == pytest.approx(math.sqrt(0.546875 / 3 / 4))
    assert math.isnan(win_rate([Judged("", 1.0, 1, 1)]).standard_error)
    with pytest.raises(ValueError, match="no judgements"):
        win_rate([])


def test_more_than_a_win_and_less_than_a_loss_are_refused():
    for won in (-0.5, 1.5, 2.0, math.nan):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            Judged("", won, 1, 1)


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_win_rates_come_out_raw_and_length_controlled(published, model):
    """Points of a hundred: raw to 1e-6, length-controlled to 0.01 (the gamed rows here are a reconstruction)."""
    expected = json.loads((published / "published.json").read_text())[model]
    instructions = [row["instruction"] for row in json.loads((published / "instructions.json").read_text())]
    difficulty = read_difficulty(published / "instruction_difficulty.json", instructions)
    gamed = read_gamed(published / "gamed_baseline_reconstructed.json", list(difficulty.values()))
    assert len(difficulty) == 805 and len(gamed) == 1610
    rows = json.loads((published / f"{model}.json").read_text())
    judged = [
        Judged(*row)
        for row in zip(
            instructions, [one - 1 for one in rows["preference"]], rows["output_2_len"], rows["output_1_len"]
        )
    ]
    plain, controlled = win_rate(judged), length_controlled_win_rate(judged, difficulty, gamed)
    assert 100 * plain.rate == pytest.approx(expected["win_rate"], abs=1e-6)
    assert 100 * plain.standard_error == pytest.approx(expected["standard_error"], abs=1e-6)
    assert controlled.form == "v1"
    assert 100 * controlled.rate == pytest.approx(expected["length_controlled_winrate"], abs=0.01)
    weights = controlled.length_weight, controlled.difficulty_weight, controlled.constant
    assert weights == pytest.approx(list(expected["glm_weights"].values()), abs=1e-3)
    assert controlled.inverse_penalty == pytest.approx(expected["inferred_C"])
    if expected["lc_standard_error"]:
        assert 100 * controlled.spread_error == pytest.approx(expected["lc_standard_error"], abs=1e-3)


LIBRARY = """
import json, sys
import pandas
import alpaca_eval.metrics.glm_winrate as library
given = json.load(sys.stdin)
library.hf_hub_download = lambda **address: sys.argv[1]
for form in ("length_controlled_v1", "length_controlled_noreg", "length_controlled_minimal"):
    found = library.get_length_controlled_winrate(pandas.DataFrame(given), glm_name=form, save_weights_dir=None)
    print(form, found["win_rate"], found["length_controlled_winrate"], found["lc_standard_error"])
"""


def test_the_library_finds_the_same_rates_on_the_same_inputs(tmp_path):
    """alpaca_eval wants an older pandas than we have: ALPACA_EVAL_PYTHON may be the interpreter of another place."""
    python = os.environ.get("ALPACA_EVAL_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import alpaca_eval.metrics.glm_winrate"], capture_output=True).returncode:
        pytest.skip("alpaca_eval cannot be imported (ALPACA_EVAL_PYTHON)")
    judged, known, _ = judgements()
    random = np.random.default_rng(5)
    judged = [Judged(one.instruction, 1 + random.beta(0.4, 0.6), one.length, one.baseline_length) for one in judged]
    gamed = gamed_rows(known)
    header = "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    lines = [
        f"gamed,{row.won!r},{number % len(known)},{row.length_difference!r},{row.difficulty!r},False\n"
        for number, row in enumerate(gamed)
    ]
    (tmp_path / "df_gamed.csv").write_text(header + "".join(lines))
    table = {
        "preference": [1 + one.won for one in judged],
        "output_1": ["x" * one.baseline_length for one in judged],
        "output_2": ["x" * one.length for one in judged],
        "generator_1": ["baseline"] * len(judged),
        "generator_2": ["model"] * len(judged),
        "annotator": ["judge"] * len(judged),
    }
    run = subprocess.run(
        [python, "-c", LIBRARY, str(tmp_path / "df_gamed.csv")], input=json.dumps(table), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    for line, data in zip(run.stdout.splitlines(), [(known, gamed), (known, None), (None, None)], strict=True):
        name, *theirs = line.split()
        ours = length_controlled_win_rate(judged, *data)
        assert name == f"length_controlled_{ours.form}"
        rates = [win_rate(judged).rate, ours.rate, ours.spread_error]
        assert [100 * rate for rate in rates] == pytest.approx([float(value) for value in theirs], abs=1e-9)


def test_length_control_recovers_the_rate_at_equal_length():
    """Without the gamed rows, which pull, the formula is fitted to what it made itself."""
    judged, known, truth = judgements()
    assert abs(win_rate(judged).rate - truth) > 0.1
    controlled = length_controlled_win_rate(judged, known)
    assert controlled.rate == pytest.approx(truth, abs=0.002) and controlled.form == "noreg"
    weights = controlled.length_weight, controlled.difficulty_weight, controlled.constant
    assert weights == pytest.approx((1.5, 0.8, -0.4), abs=0.02)
    assert length_controlled_win_rate(judged, known, gamed_rows(known)).form == "v1"
    minimal = length_controlled_win_rate(judged)
    assert minimal.form == "minimal" and minimal.difficulty_weight == 0 and minimal.spread_error < 1e-12


def test_the_fit_is_where_its_penalised_loss_is_least():
    """There the gradient of C times the weighted log loss is -1 for a weight above 0 and 1 for one below (L1).

    liblinear stops at a small share of the gradient that it began with, at weights of 0.
    """
    judged, known, _ = judgements()
    gamed = gamed_rows(known)
    found = length_controlled_win_rate(judged, known, gamed)
    differences = np.array([one.baseline_length - one.length for one in judged])
    scaled = differences / differences.std(ddof=1)
    rows = [(math.tanh(value), known[one.instruction], 1.0) for value, one in zip(scaled, judged)]
    rows += [(math.tanh(row.length_difference), row.difficulty, 0.0) for row in gamed]
    targets = [one.won for one in judged] + [row.won for row in gamed]
    factors = [1.0] * len(judged) + [0.1] * len(gamed)
    weights = [found.length_weight, found.difficulty_weight, found.constant]

    def gradient(weights):
        total = [0.0, 0.0, 0.0]
        for row, target, factor in zip(rows, targets, factors, strict=True):
            predicted = sigmoid(sum(weight * value for weight, value in zip(weights, row)))
            for place, value in enumerate(row):
                total[place] += found.inverse_penalty * factor * (predicted - target) * value
        return total

    begun = max(map(abs, gradient([0.0, 0.0, 0.0])))
    assert gradient(weights) == pytest.approx([-math.copysign(1, weight) for weight in weights], abs=1e-3 * begun)


def test_difficulties_are_found_by_instruction_not_by_place():
    """In another order, or with judgements missing, the fit stays; with difficulties exchanged it does not."""
    judged, known, truth = judgements()
    mixed = [judged[place] for place in np.random.default_rng(2).permutation(len(judged))]
    for others in (mixed, judged[7:], judged[::2]):
        found = length_controlled_win_rate(others, known)
        assert found.difficulty_weight == pytest.approx(0.8, abs=0.05)
    exchanged = dict(zip(known, [*list(known.values())[1:], 0.0]))
    assert abs(length_controlled_win_rate(judged, exchanged).difficulty_weight) < 0.4
    with pytest.raises(InputError, match=r"1 of 401 judged instructions have no difficulty \(first: 'new'\)"):
        length_controlled_win_rate([*judged, Judged("new", 0.5, 3, 4)], known)
    with pytest.raises(ValueError, match="need difficulties"):
        length_controlled_win_rate(judged, None, gamed_rows(known))


def newton(features, wins):
    """Weights of a logistic regression without penalty."""
    weights = np.zeros(features.shape[1])
    for _ in range(25):
        fitted = sigmoid(features @ weights)
        information = (features * (fitted * (1 - fitted))[:, None]).T @ features
        weights += np.linalg.solve(information, features.T @ (wins - fitted))
    return weights


def test_the_standard_error_is_that_of_a_bootstrap():
    """500 resamples of the instructions, each fitted by Newton's method; their own error is 3 %."""
    judged, known, _ = judgements()
    random = np.random.default_rng(3)
    judged = [
        Judged(one.instruction, float(random.random() < one.won), one.length, one.baseline_length) for one in judged
    ]
    found = length_controlled_win_rate(judged, known)
    differences = np.array([one.baseline_length - one.length for one in judged])
    difficulty = np.array([known[one.instruction] for one in judged])
    wins = np.array([one.won for one in judged])
    rates = []
    for _ in range(500):
        drawn = random.integers(0, len(judged), len(judged))
        lengths = np.tanh(differences[drawn] / differences[drawn].std(ddof=1))
        _, gamma, constant = newton(np.column_stack([lengths, difficulty[drawn], np.ones(len(drawn))]), wins[drawn])
        rates.append(sigmoid(gamma * difficulty[drawn] + constant).mean())
    assert found.standard_error == pytest.approx(np.std(rates, ddof=1), rel=0.15)
    assert found.spread_error < 0.5 * found.standard_error


def test_what_length_control_cannot_say_it_refuses_to_say():
    judged, known, _ = judgements(40)
    gamed = gamed_rows(known)

    def refusal(rows, *data):
        with pytest.raises(NoLengthControl) as caught:
            length_controlled_win_rate(rows, *data)
        return str(caught.value)

    assert refusal(judged[:1], known, gamed) == "a fit needs at least 2 judgements, got 1"
    assert "too one-sided" in refusal(judged[:8])
    wins = [Judged(one.instruction, 1.0, one.length, one.baseline_length) for one in judged]
    assert refusal(wins, known).startswith("40 wins in 40 judgements are too one-sided")
    shifted = [Judged(one.instruction, one.won, one.baseline_length + 5, one.baseline_length) for one in judged]
    assert refusal(shifted, known, gamed).startswith("every answer is 5 characters longer")
    apart = [
        Judged(one.instruction, float(number % 2), 100 + 50 * (number % 2), 125) for number, one in enumerate(judged)
    ]
    assert "length separates all wins from all losses" in refusal(apart)


def test_answers_all_as_long_as_the_baselines_or_all_winning_have_a_rate():
    judged, known, _ = judgements(100)
    gamed = gamed_rows(known)
    level = [Judged(one.instruction, one.won, 50, 50) for one in judged]
    for data in ((None, None), (known, None), (known, gamed)):
        found = length_controlled_win_rate(level, *data)
        assert found.rate == pytest.approx(win_rate(level).rate, abs=0.03)
        assert math.isfinite(found.standard_error)
    wins = [Judged(one.instruction, 1.0, one.length, one.baseline_length) for one in judged]
    assert length_controlled_win_rate(wins, known, gamed).rate > 0.999


def test_difficulties_and_gamed_rows_are_read_from_the_hubs_table_and_from_json(tmp_path):
    """The table numbers the instructions and repeats them for each gamed baseline; a row without verdict is no row."""
    table = tmp_path / "df_gamed.csv"
    table.write_text(
        "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
        "verbose,0.75,0,-1.5,0.5,False\nverbose,0.25,1,2.0,-1.0,False\nconcise,,0,1.0,0.5,False\n"
        "concise,1.0,1,0.5,-1.0,False\n"
    )
    difficulty = {"first": 0.5, "second": -1.0}
    assert read_difficulty(table, ["first", "second"]) == difficulty
    rows = [Gamed(0.75, -1.5, 0.5), Gamed(0.25, 2.0, -1.0), Gamed(1.0, 0.5, -1.0)]
    assert read_gamed(table, [0.5, -1.0]) == rows
    (tmp_path / "plain.csv").write_text(",instruction_difficulty\n0,0.5\n1,-1.0\n")
    assert read_difficulty(tmp_path / "plain.csv", ["first", "second"]) == difficulty
    for content in ({"note": "x", "instruction_difficulty": [0.5, -1.0]}, {"second": -1.0, "first": 0.5}):
        (tmp_path / "difficulty.json").write_text(json.dumps(content))
        assert read_difficulty(tmp_path / "difficulty.json", ["first", "second"]) == difficulty
    gamed = {
        "note": "x",
        "verbose": {"preference": [0.75, 0.25], "std_delta_len": [-1.5, 2.0]},
        "concise": {"preference": [None, 1.0], "std_delta_len": [1.0, 0.5]},
    }
    (tmp_path / "gamed.json").write_text(json.dumps(gamed))
    assert read_gamed(tmp_path / "gamed.json", [0.5, -1.0]) == rows


def test_files_that_are_something_else_are_refused(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    cases = [
        (lambda: read_difficulty(tmp_path / "none.csv", ["a"]), "cannot be read"),
        (lambda: read_difficulty(write("a.csv", "index,x\n0,1\n"), ["a"]), "no column instruction_difficulty"),
        (lambda: read_difficulty(write("b.csv", ",instruction_difficulty\n1,2\n"), ["a"]), "1 difficulties in the"),
        (lambda: read_difficulty(write("c.json", "[1]"), ["a"]), "neither a .csv file nor a JSON object"),
        (lambda: read_difficulty(write("d.json", '{"a": "hard"}'), ["a"]), "has 'hard' where a number"),
        (lambda: read_difficulty(write("e.json", '{"instruction_difficulty": [1, 2]}'), ["a"]), "2 difficulties"),
        (lambda: read_gamed(write("f.json", '{"v": {"preference": [1]}}'), [1.0]), "1 preferences and 0 std"),
        (lambda: read_gamed(write("g.json", '{"note": "x"}'), [1.0]), "no gamed rows"),
    ]
    for read, message in cases:
        with pytest.raises(InputError, match=message):
            read()


def test_a_file_of_another_sha256_is_refused(tmp_path):
    path = tmp_path / "gamed.json"
    path.write_bytes(b"{}\r\n")
    sha256 = hashlib.sha256(b"{}\r\n").hexdigest()
    assert checked(path, "") == checked(path, sha256.upper()) == path
    with pytest.raises(InputError, match=f"has SHA-256 {sha256}, expected 00"):
        checked(path, "00" * 32)


def test_the_hubs_files_are_found_in_its_cache_without_a_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="df_gamed.csv could not be loaded from the hub's dataset tatsu-lab/alpaca_eval"
    ):
        fetch("df_gamed.csv")
    folder = tmp_path / "datasets--tatsu-lab--alpaca_eval"
    (folder / "snapshots" / "0123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    (folder / "snapshots" / "0123" / "df_gamed.csv").write_text("x")
    assert fetch("df_gamed.csv").read_text() == "x"
