import pytest

from eval_workers.tracking.addresses import resolve, ui_command
from mmpo_train.errors import InputError
from mmpo_train.redaction import masked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("./mlruns", "plain folder"),
        ("mlruns", "plain folder"),
        ("file:///tmp/mlruns", "plain folder"),
        ("ftp://host/runs", "unknown scheme 'ftp'"),
        ("http://", "names no host"),
        ("http://user:hunter2@", "names no host"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///no/such/folder/mlflow.db", "does not exist; make it"),
        ("sqlite:////proc/mlflow.db", "cannot be written"),
        ("sqlite:////dev/null/mlflow.db", "does not exist"),
    ],
)
def test_an_address_mlflow_cannot_write_to_is_refused_with_the_next_step(tmp_path, given, said):
    with pytest.raises(InputError, match=said) as refusal:
        resolve(given, tmp_path)
    assert "hunter2" not in str(refusal.value)
    assert "leave out --tracking-uri" in str(refusal.value) or "expected http://" in str(refusal.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, just some notes that are long enough to be looked at" * 20)
    with pytest.raises(InputError, match="not a database"):
        resolve(f"sqlite:///{path}", tmp_path)
    assert path.read_text().startswith("not a database, just")


def test_results_below_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        resolve(None, tmp_path / "file" / "runs")


def test_the_default_is_a_database_in_the_storage_folder(tmp_path):
    address = resolve(None, tmp_path / "new" / "runs")
    assert address.uri == f"sqlite:///{tmp_path}/new/runs/mlflow.db"
    assert not address.remote


def test_the_ui_command_is_relative_below_the_current_folder_and_checks_hosts(tmp_path, monkeypatch):
    address = resolve(None, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert ui_command(address) == (
        "mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --port 5000 "
        "--allowed-hosts 127.0.0.1:5000,localhost:5000"
    )
    monkeypatch.chdir("/")
    assert f"sqlite:///{tmp_path}/runs/mlflow.db" in ui_command(address).replace("sqlite:///tmp", "sqlite:////tmp")


def test_credentials_are_never_shown(tmp_path):
    address = resolve("https://ana:hunter2@mlflow.example.org:8443/", tmp_path)
    assert address.uri == "https://ana:hunter2@mlflow.example.org:8443"
    assert address.shown == ui_command(address) == "https://***@mlflow.example.org:8443"
    assert masked("at postgresql+psycopg://ana:hunter2@db/x?sslmode=require") == (
        "at postgresql+psycopg://***@db/x?sslmode=require"
    )
    assert masked("GET /data?token=abc123&split=train") == "GET /data?token=***&split=train"
    assert masked("hf_abcdefghijklmnopqrstuvwx in the log") == "hf_*** in the log"
    assert masked("tokens_per_pass=16384, max_prompt_tokens=1800") == "tokens_per_pass=16384, max_prompt_tokens=1800"
