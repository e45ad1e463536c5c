"""The papers' claims against made-up numbers: what holds, what is an identity, and a planted false one."""

import dataclasses
from typing import Any, cast

import pytest

from sweeps.ledger.records import ChildRecord, Evaluation, TrialRecord
from sweeps.reporting.claims import beta_floor, mmpo_claims
from sweeps.reporting.cost import cost_table
from sweeps.reporting.mc_po_claims import mc_po_claims
from sweeps.reporting.read import Experiment, Point, StageRun, Trial
from sweeps.reporting.recommendation import candidates, values_of
from sweeps.reporting.tables import study_tables

ERROR = 0.01


def trial(name: str, harness: tuple[float, float], rate: tuple[float, float], tags=None, **config: Any) -> Trial:
    """Of two epochs, with an error of 0.01 of each number."""
    config = {"learning_rate": 5e-4, "beta": 0.05, "r_eps": 0.6, "gamma_over_beta": 1.2, "auxiliary": True} | config
    record = TrialRecord(
        run_id=f"run of {name}", digest=name, name=name, stage="", parent="", status="finished",
        params={"epochs": "2", "seed": "42"}, config=config,
        evaluations=tuple(Evaluation(n, {}, (1, 0), f"/gone/{name}/epoch-{n}") for n in (1, 2)),
        judged_by=frozenset(), reason="", seconds=1800.0, read_curve=cast(Any, None),
        shares=(tags or {}).get("shares", ""),
    )  # fmt: skip
    by_epoch = {
        "harness/mean_accuracy": harness, "alpaca/lc_win_rate": rate,
        "harness/mean_accuracy_error": (ERROR, ERROR), "alpaca/lc_win_rate_error/gpt": (ERROR, ERROR),
    }  # fmt: skip
    scores = {metric: dict(enumerate(values, 1)) for metric, values in by_epoch.items()}
    return Trial(record, tags or {}, scores, ())


def stage(name: str, objective: str, axis: str, trials: dict[str, Trial]) -> StageRun:
    points = tuple(Point(label, (one,), 1) for label, one in trials.items())
    return StageRun(
        f"{name} {objective}", name, objective, {"stage.state": "finished"}, {"axis": axis}, 1, points, (), ()
    )


def final(objective: str, betas: dict[str, tuple[tuple[float, float], tuple[float, float]]], tags=None) -> StageRun:
    runs = {beta: trial(f"{objective} {beta}", *both, tags, beta=float(beta)) for beta, both in betas.items()}
    return stage("final_runs", objective, "beta", runs)


MMPO = {"0.01": ((0.40, 0.41), (0.55, 0.62)), "0.05": ((0.40, 0.40), (0.55, 0.63)), "0.5": ((0.40, 0.41), (0.56, 0.62))}
DPO = {"0.01": ((0.40, 0.30), (0.60, 0.20)), "0.05": ((0.40, 0.35), (0.60, 0.30)), "0.5": ((0.40, 0.40), (0.60, 0.50))}


def ablations(entropy: tuple[float, float]) -> StageRun:
    variants = {"full": (0.40, 0.40), "no norm": (0.40, 0.405), "entropy": entropy, "no aux": (0.40, 0.39)}
    runs = {name: trial(name, harness, (0.6, 0.6)) for name, harness in variants.items()}
    return stage("ablations", "mmpo", "variant", runs)


def experiment(*stages: StageRun, **more: Any) -> Experiment:
    return Experiment("tiny on tiny", stages, {}, more.get("starting_model", {}))


def verdicts(found: list[Any]) -> dict[str, str]:
    return {one.claim: one.verdict for one in found}


def test_a_planted_false_claim_is_contradicted_and_a_true_one_holds():
    """Entropy 10 points above the full objective, with 1.96 sqrt(2) = 2.8 points of noise; then 10 points below."""
    claim = "entropy maximisation lowers the peak LM Harness accuracy"
    assert verdicts(mmpo_claims(experiment(ablations((0.50, 0.50)))))[claim] == "contradicted"
    assert verdicts(mmpo_claims(experiment(ablations((0.30, 0.30)))))[claim] == "holds"
    assert verdicts(mmpo_claims(experiment(ablations((0.41, 0.41)))))[claim] == "within noise"


def test_beta_stability_of_mmpo_is_an_identity_and_its_spread_the_noise_of_the_others():
    whole = experiment(final("mmpo", MMPO), final("dpo", DPO), ablations((0.3, 0.3)))
    found = mmpo_claims(whole)
    assert [one.verdict for one in found[:2]] == ["an identity", "an identity"]
    assert found[0].effect is not None and found[0].effect.value == pytest.approx(0.01)
    told = verdicts(found)
    assert told["DPO's LM Harness accuracy depends on beta"] == "holds"
    assert told["DPO's win rate falls from the first epoch to the last (smallest beta)"] == "holds"
    assert told["MMPO's win rate rises from the first epoch to the last (smallest beta)"] == "holds"
    assert told["without in-batch normalisation the peak LM Harness accuracy is lower"] == "an identity"
    assert told["SimPO's win rate depends on beta"] == "not measured"
    noisy = {beta: ((0.3 + n / 10, 0.3 + n / 10), (0.5, 0.5)) for n, beta in enumerate(MMPO)}
    loud = verdicts(mmpo_claims(experiment(final("mmpo", noisy), final("dpo", DPO), ablations((0.3, 0.3)))))
    assert loud["DPO's LM Harness accuracy depends on beta"] == "within noise"
    assert loud["entropy maximisation lowers the peak LM Harness accuracy"] == "within noise"


def test_betas_that_share_one_training_measure_no_noise():
    assert beta_floor(final("mmpo", MMPO), "harness/mean_accuracy") is not None
    assert beta_floor(final("mmpo", MMPO, {"shares": "x"}), "harness/mean_accuracy") is None
    assert beta_floor(final("dpo", DPO), "harness/mean_accuracy") is None


def test_learning_rates_are_no_replicates_of_one_training():
    runs = {rate: trial(rate, *both) for rate, both in MMPO.items()}
    assert beta_floor(stage("stage1_lr", "mmpo", "learning_rate", runs), "harness/mean_accuracy") is None


def test_without_the_auxiliary_term_beta_is_no_identity():
    runs = {beta: trial(beta, *both, auxiliary=False) for beta, both in DPO.items()}
    found = mmpo_claims(experiment(stage("final_runs", "mmpo", "beta", runs)))
    assert found[0].verdict == "holds" and found[0].claim == "MMPO's LM Harness accuracy is stable over beta"


def test_the_recommendation_is_the_best_checkpoint_by_win_rate_with_its_lead_and_place():
    best, second = candidates(experiment(final("mmpo", MMPO), final("dpo", DPO)))
    assert (best.objective, best.epoch, values_of(best)) == ("mmpo", 2, "learning rate 5e-4, beta 0.05, r_eps 0.6")
    assert best.checkpoint == "/gone/mmpo 0.05/epoch-2" and best.checkpoint in best.load and best.one_training
    assert best.lead is not None and best.lead.value == pytest.approx(0.01) and best.sure.endswith("within noise")
    assert (second.objective, second.epoch, second.one_training) == ("dpo", 1, False)
    assert candidates(experiment()) == []


def study(name: str, cells: dict[tuple[str, str], list[float]]) -> StageRun:
    rows = [
        {"metric": "win rate", "row": row, "column": column, "learning_rate": "1e-4", "value": str(value)}
        for (row, column), values in cells.items()
        for value in values
    ]
    return StageRun(name, name, "", {"stage.state": "finished"}, {"seeds": "2"}, 1, (), (), (), tuple(rows))


def test_mc_pos_claims_are_judged_by_the_seeds_of_its_studies():
    noise = study("mc_po_table2", {
        ("DPO(-)", "final"): [0.1, 0.11, 0.1], ("DPO", "final"): [0.5, 0.52, 0.51],
        ("MC-PO", "final"): [0.4, 0.41, 0.42],
    })  # fmt: skip
    found = mc_po_claims(experiment(noise))
    told = verdicts(found)
    assert told["noise alone as the negative ruins DPO"] == "holds"
    assert told["with noise MC-PO is better than DPO"] == "contradicted"
    assert told["MC-PO gains from three negatives"] == "not measured"
    assert len(found) == 16


def test_a_studys_table_in_the_report_has_its_seeds_and_the_papers_numbers():
    [sheet] = study_tables(
        experiment(study("mc_po_table2", {("DPO", "final"): [0.5, 0.52], ("MC-PO", "final"): [0.4]}))
    )
    assert sheet.table.title == "Study `mc_po_table2`" and sheet.table.headers[1] == "win rate"
    assert sheet.table.rows[0][:2] == ("DPO", "0.5100 (±0.0141)") and "23.62 (±2.81)" in sheet.table.rows[0]
    assert sheet.table.rows[1][1] == "0.4000 [1 missing]"


def test_a_point_that_shares_a_training_costs_nothing():
    trials = {"a": trial("a", (0, 0), (0, 0)), "b": trial("b", (0, 0), (0, 0), {"shares": "a"})}
    begun = [ChildRecord(name, name, name, "finished", "", {}, {"trial.digest": name}) for name in trials]
    one = dataclasses.replace(stage("stage2_beta", "mmpo", "beta", {}), children=tuple(begun))
    row = cost_table(dataclasses.replace(experiment(one), trials=trials)).table.rows[0]
    assert row[2:6] == ("1", "1", "0", "1,800")


def test_the_best_of_the_ten_leaves_mc_po_and_its_online_form_out():
    table = {("mc_po", "final"): [0.6, 0.61], ("on_mc_po", "final"): [0.9, 0.9], ("dpo", "final"): [0.5, 0.51]}
    table[("nca", "final")] = [0.4, 0.4]
    [first, *_] = mc_po_claims(experiment(study("mc_po_table1", table)))
    assert first.claim.endswith("(dpo)") and first.effect is not None and first.effect.value == pytest.approx(0.1)
