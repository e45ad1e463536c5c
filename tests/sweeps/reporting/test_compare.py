"""Two checkpoints side by side, and the model card of one, from a real MLflow."""

from dataclasses import replace as copy
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from eval_workers.tracking.evaluations import EXPERIMENT as EVALUATED
from mmpo_train.config import to_dict
from sweeps.final_runs import FinalOptions, final_runs
from sweeps.ledger.ledger import connect
from sweeps.report import main
from sweeps.reporting.compare import config_differences
from sweeps.reporting.model_card import checkpoint_of, push_checkpoint
from tests.support.report_ledger import EXPERIMENT, answers_in, config, judged, made

OURS = {f"Question {n}?": f"Answer {n}.\n`a|b` <b>bold</b>" for n in range(6)}
THEIRS = {f"Question {n}?": f"Other {n}." for n in range(5)}
SUITES = {"harness/piqa/acc": 0.6, "arena_hard/win_rate": 0.4, "arena_hard/win_rate_error": 0.03}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A storage, and the run ids of an mmpo trial with answers, of a dpo trial with answers, and of one without."""
    storage = tmp_path_factory.mktemp("runs")
    ledger = connect(None, storage)
    found = []
    for objective, beta, answers, preference in (
        ("mmpo", 0.01, OURS, 1.75),
        ("dpo", 0.05, THEIRS, 1.2),
        ("dpo", 0.5, {}, 0.0),
    ):
        stage = final_runs(FinalOptions(objective=objective, betas=(beta,)))
        scored = {1: judged(0.6, 0.36, 0.55) | SUITES, 2: judged(0.7, 0.35, 0.65) | SUITES}
        folder = answers_in(storage / f"answers-{beta}", answers, preference) if answers else None
        base = copy(config(objective, epochs=2), model="/home/me/models/my-sft", dataset=("/data/mine.jsonl",))
        made(ledger, stage, base, {f"final b={beta}": scored}, answers=folder)
        store = ledger.store
        runs = store.search(store.experiment_id(EXPERIMENT), {"ledger.kind": "trial"})
        found.append(next(run.info.run_id for run in runs if run.info.run_name == f"final b={beta}"))
    ledger.close()
    return storage, *found


def test_answers_to_the_same_prompts_stand_side_by_side(runs, tmp_path):
    storage, ours, theirs, _ = runs
    main(["--storage", str(storage), "--compare", ours, f"{theirs}:1", "--out", str(tmp_path), "--prompts", "2"])
    markdown = (tmp_path / "comparison" / "comparison.md").read_text()
    page = (tmp_path / "comparison" / "comparison.html").read_text()
    assert "# mmpo final b=0.01, epoch 2 beside dpo final b=0.05, epoch 1" in markdown
    assert "2 of 5 prompts that both answered; 1 more have an answer of one of them alone." in markdown
    row = "| Question 0? | Answer 0.<br>`a\\|b` &lt;b>bold&lt;/b><br>[gpt: 0.75] | Other 0.<br>[gpt: 0.20] |"
    assert row in markdown and "| Question 2? | Answer 2." in markdown and "Question 1?" not in markdown
    assert "`a|b` &lt;b&gt;bold&lt;/b&gt;" in page and "<b>bold" not in page
    arena = markdown.partition("## Answers: Arena-Hard")[2]
    assert "| Question 0? | Answer 0.<br>`a\\|b` &lt;b>bold&lt;/b> | Other 0. |" in arena


def test_config_and_scores_of_both_are_named(runs, tmp_path):
    storage, ours, theirs, _ = runs
    main(["--storage", str(storage), "--compare", ours, f"{theirs}:1", "--out", str(tmp_path)])
    markdown = (tmp_path / "comparison" / "comparison.md").read_text()
    config_part = markdown.partition("## Config")[2].partition("## Scores")[0]
    rows = [line for line in config_part.splitlines() if line.startswith("|")][2:]
    assert rows[:3] == ["| objective | mmpo | dpo |", "| beta | 0.01 | 0.05 |", "| r_eps | 0.6 | – |"]
    assert "| alpaca/lc_win_rate | 0.6500 ± 0.0200 | 0.5500 ± 0.0200 |" in markdown
    assert "| validation/reward_accuracy | 0.7000 ± 0.0458 | 0.6000 ± 0.0490 |" in markdown


def test_answers_that_are_not_there_are_missing(runs, tmp_path):
    storage, ours, _, without = runs
    main(["--storage", str(storage), "--compare", ours, without, "--out", str(tmp_path)])
    markdown = (tmp_path / "comparison" / "comparison.md").read_text()
    assert markdown.count("Missing: no answers of B (dpo final b=0.5, epoch 2) are in the ledger.") == 2


def test_only_what_determines_the_result_differs():
    """tokens_per_pass changes how a trial runs; gamma is read by another objective."""
    one = to_dict(config("dpo", beta=0.1))
    other = to_dict(config("dpo", beta=0.2, tokens_per_pass=99, gamma=3.0, lora_rank=8, dataset=("a", "b")))
    assert config_differences(one, other)[0] == ("beta", "0.1", "0.2")
    names = [name for name, _, _ in config_differences(one, other)]
    assert names[:2] == ["beta", "dataset"] and "lora_rank" in names and "gamma" not in names
    assert "tokens_per_pass" not in names and config_differences(one, one) == ()


def test_the_card_has_the_evaluations_as_metadata_and_stays_here(runs, tmp_path, monkeypatch):
    storage, ours, _, _ = runs
    monkeypatch.setattr(ModelCard, "push_to_hub", lambda *_, **__: pytest.fail("nobody asked to push"))
    main(["--storage", str(storage), "--card", f"{ours}:1", "--out", str(tmp_path)])
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.base_model is None and card.data.datasets is None and card.data.library_name == "transformers"
    assert card.data.model_name.startswith("my-sft-mmpo-") and card.data.model_name.endswith("-epoch-1")
    scored = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scored == {
        "validation/reward_accuracy": 0.6,
        "harness/mean_accuracy": 0.36,
        "harness/piqa/acc": 0.6,
        "alpaca/lc_win_rate": 0.55,
        "arena_hard/win_rate": 0.4,
    }
    assert "/home/me" not in str(card) and "/data" not in str(card)
    assert "| beta | 0.01 |" in str(card) and "Not evaluated" not in str(card) and ours in str(card)


def test_a_hub_model_and_its_data_are_named_in_the_card(runs, tmp_path):
    ledger = connect(None, runs[0])
    stage = final_runs(FinalOptions(betas=(0.01,)))
    scored = {"final b=0.01": {1: {"validation/reward_accuracy": 0.5}}}
    made(ledger, stage, config(epochs=1, lora_rank=8), scored, experiment="of the hub")
    store = ledger.store
    [run] = store.search(store.experiment_id("of the hub"), {"ledger.kind": "trial"})
    ledger.close()
    main(["--storage", str(runs[0]), "--card", run.info.run_id, "--out", str(tmp_path)])
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-360M" and card.data.library_name == "peft"
    assert card.data.datasets == ["some/orca", "some/ultrafeedback"]
    assert "Not evaluated: LM Harness, AlpacaEval 2, Arena-Hard." in str(card)


def test_a_card_is_pushed_only_where_a_repository_is_named(runs, tmp_path, monkeypatch, capsys):
    storage, ours, _, _ = runs
    pushed = []
    monkeypatch.setattr(ModelCard, "push_to_hub", lambda card, repo, **_: pushed.append((repo, str(card))))
    command = ["--storage", str(storage), "--card", ours, "--out", str(tmp_path)]
    main([*command, "--push-to-hub", "me/card"])
    assert pushed == [("me/card", (tmp_path / "card" / "README.md").read_text())]

    def refuse(card: ModelCard, repo: str, **_: object) -> None:
        raise ValueError("no token=hf_abcdefghijklmnop")

    monkeypatch.setattr(ModelCard, "push_to_hub", refuse)
    with pytest.raises(SystemExit) as stop:
        main([*command, "--push-to-hub", "me/card"])
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2 and "the hub did not take the card for me/card" in said and "abcdefgh" not in said


def test_a_checkpoint_is_pushed_with_the_files_of_its_model_and_no_others(runs, tmp_path, monkeypatch):
    storage, ours, _, _ = runs
    ledger = connect(None, storage)
    one = checkpoint_of(ledger, ours)
    ledger.close()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "trial.json", "notes.md", "optimizer.bin"):
        (tmp_path / name).write_text("{}")
    [*others, last] = one.trial.record.evaluations
    record = copy(one.trial.record, evaluations=(*others, copy(last, checkpoint=str(tmp_path))))
    asked = []

    class Hub:
        def create_repo(self, repository, **how):
            asked.append((repository, how))

        def upload_folder(self, **how):
            asked.append((how["repo_id"], sorted(how["allow_patterns"])))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    push_checkpoint(copy(one, trial=copy(one.trial, record=record)), "me/model")
    assert asked == [
        ("me/model", {"private": True, "exist_ok": True}),
        ("me/model", ["config.json", "model.safetensors", "tokenizer.json"]),
    ]


def test_the_starting_models_own_scores_stand_beside_the_checkpoints(runs, tmp_path):
    storage, ours, _, _ = runs
    ledger = connect(None, storage)
    client = ledger.store.client
    run = client.create_run(ledger.store.experiment_id(EVALUATED, create=True))
    client.log_param(run.info.run_id, "path", "/home/me/models/my-sft")
    client.log_metric(run.info.run_id, "harness/mean_accuracy", 0.3125)
    ledger.close()
    main(["--storage", str(storage), "--card", f"{ours}:1", "--out", str(tmp_path)])
    [line] = [line for line in (tmp_path / "card" / "README.md").read_text().splitlines() if "| mean zero-shot" in line]
    assert line.split("|")[3].strip() == "0.3600" and line.split("|")[5].strip() == "0.3125"


@pytest.mark.parametrize(
    ("wanted", "message"), [("{ours}:9", "has the epochs 1, 2"), ("{ours}:x", "has the epochs 1, 2"), ("gone", "gone")]
)
def test_a_checkpoint_that_is_not_there_is_refused(runs, wanted, message, capsys):
    storage, ours, _, _ = runs
    with pytest.raises(SystemExit) as stop:
        main(["--storage", str(storage), "--card", wanted.format(ours=ours)])
    assert stop.value.code == 2 and message in " ".join(capsys.readouterr().err.split())
    assert not Path(storage / "report" / "card").exists()
