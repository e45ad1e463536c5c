"""A user's mistake ends as one clear message and exit code 2, before anything is started or written."""

import json
from pathlib import Path

import pytest

from mmpo_train.config import TrialConfig
from sweeps.cost.arithmetic import ModelSize
from sweeps.cost.disk import room_needed
from sweeps.stage1_lr import main


def refusal(capsys: pytest.CaptureFixture[str], storage: Path, *arguments: str) -> str:
    """What stage 1 says before it exits with 2; the storage must be untouched."""
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--storage", str(storage)])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert "Traceback" not in said
    left = [path for path in storage.rglob("*") if path.name != "fingerprints.json"] if storage.exists() else []
    assert not left, left
    return said


def pairs(folder: Path, count: int = 64, **changed: object) -> Path:
    """A file of pairs whose third row is changed; None removes a column."""
    rows = [{"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."} for n in range(count)]
    rows[2] = {name: value for name, value in (rows[2] | changed).items() if value is not None}  # type: ignore[dict-item]
    path = folder / "pairs.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"chosen": None}, "chosen"),
        ({"prompt": ""}, "prompt"),
        ({"rejected": "  "}, "rejected"),
        ({"rejected": "Yes 2."}, "chosen"),
        ({"chosen": 7}, "chosen"),
    ],
)
def test_a_bad_row_is_named_with_its_file(
    changed: dict, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, tmp_path / "runs", "--dataset", str(pairs(tmp_path, **changed)))
    assert "pairs.json" in said and "row 3" in said and expected in said


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "empty"), (b'{"prompt": "a"}', "list"), (b"[", "line 1"), (b'[{"prompt": "\xff"}]', "UTF-8")],
)
def test_a_broken_file_is_named(
    content: bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    said = refusal(capsys, tmp_path / "runs", "--dataset", str(path))
    assert "broken.json" in said and expected in said


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing.json" in refusal(capsys, tmp_path / "runs", "--dataset", str(tmp_path / "nothing.json"))


def test_a_split_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, tmp_path / "runs", "--dataset", "tiny", "--dataset", f"{pairs(tmp_path)}:train:heldout")
    assert "heldout" in said and "train" in said


def test_fewer_pairs_than_a_step_say_how_many_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, tmp_path / "runs", "--dataset", str(pairs(tmp_path, count=10)))
    assert "9 training prompts" in said and "16" in said and "--set pairs_per_step" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--objective", "mpo"), "did you mean 'mmpo'"),
        (("--set", "betta=0.1"), "did you mean 'beta'"),
        (("--set", "beta"), "FIELD=VALUE"),
        (("--set", "learning_rate=1e-4"), "--learning-rates"),
        (("--learning-rates", "0"), "learning_rate must be a finite number above 0"),
        (("--learning-rates", "nan", "1e-4"), "learning_rate must be a finite number above 0"),
        (("--learning-rates", "1e-4", "1e-4"), "twice"),
        (("--workers-per-trial", "1000"), "--workers-per-trial"),
        (("--strict", "--drop-bad-rows"), "one of the two"),
        (("--model", "no/such/folder"), "does not exist"),
        (("--tracking-uri", "http://127.0.0.1:9"), "127.0.0.1:9"),
    ],
)
def test_a_wrong_option_is_named_with_what_was_meant(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, tmp_path / "runs", *arguments)


def test_a_model_folder_without_chat_template_or_tokenizer_is_refused(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for missing, expected in (("chat_template", "chat template"), ("token", "tokenizer")):
        folder = tmp_path / missing
        folder.mkdir()
        for path in model_folder.iterdir():
            if not path.name.startswith(("chat_template", missing)):
                (folder / path.name).write_bytes(path.read_bytes())
        assert expected in refusal(capsys, tmp_path / "runs", "--model", str(folder))


def test_storage_that_cannot_hold_the_checkpoints_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 2_000_000})())
    said = refusal(capsys, tmp_path / "runs")
    assert "2 MB free" in said and "--storage" in said


def test_room_is_counted_for_checkpoints_and_for_the_states_of_trials_under_way() -> None:
    size = ModelSize(1_000_000, 10, 100)
    overhead = room_needed(TrialConfig(), None, 6, 2)
    trial = TrialConfig(epochs=3, precision="fp32")
    assert room_needed(trial, size, 6, 2) - overhead == 6 * 3 * 4e6 + 2 * 2 * 12e6
    assert room_needed(trial, size, 1, 2) - overhead == 3 * 4e6 + 2 * 12e6
    assert room_needed(trial, size, 6, 2, stops=True) - overhead == 6 * 3 * 4e6 + (6 + 2) * 12e6
    half = room_needed(TrialConfig(epochs=3, precision="bf16"), size, 6, 2) - overhead
    assert half == 6 * 3 * 2e6 + 2 * 2 * 12e6
    adapters = room_needed(TrialConfig(epochs=3, lora_rank=2), size, 6, 2) - overhead
    assert adapters == (6 * 3 * 4 + 2 * 2 * 12) * 2 * 10 * 100 * 23


def test_unusable_rows_are_dropped_and_counted_or_refused_when_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pairs(tmp_path)
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[5]]))
    main(["--dataset", str(path), "--dry-run", "--storage", str(tmp_path / "runs")])
    assert "64 of 65 rows kept, 1 dropped" in " ".join(capsys.readouterr().out.split())
    said = refusal(capsys, tmp_path / "runs", "--dataset", str(path), "--strict")
    assert "pairs.json" in said and "row 65" in said
