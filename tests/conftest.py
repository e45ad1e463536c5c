"""What several files share: a random model with the project's own tokenizer, and preference data prepared for it.

Tests of the marker `gpu` alone see this machine's GPUs; the others are written for a CPU, and find nothing else.
"""

import json
import logging
import os
import secrets
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults import inputs
from mmpo_train.config import TrialConfig, replace

pytest_plugins = ["tests.support.checkpoints"]


def pytest_configure(config):
    # Where whoever started the tests ignores Ctrl-C (`&` in a script), the programs that they start would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("markexpr") != "gpu" and shutil.which("nvidia-smi"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not os.environ.get("GPU_TESTS_ON_CPU"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU, and is run by `make gpu-test`")


@pytest.fixture
def plugged(monkeypatch):
    """What plug-ins add in the test is taken away again."""
    from mmpo_train import config as configs
    from mmpo_train.metric_names import OF_SUITE
    from mmpo_train.typed import plugins

    tables = configs.OBJECTIVE_FIELDS, configs.PLUGGED, OF_SUITE, plugins._loaded
    before = [dict(table) for table in tables]
    monkeypatch.setattr(configs, "EVALUATIONS", configs.EVALUATIONS)
    monkeypatch.setenv(plugins.ENVIRONMENT, "")
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """Nothing that an earlier version of the code has made on this machine, above all no `tiny`, is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def preference_rows():
    """Forty rows {prompt, chosen, rejected}."""
    return inputs.preference_rows()


@pytest.fixture(scope="session")
def tokenizer(preference_rows):
    """The project's tokenizer, trained on the rows."""
    return inputs.tokenizer_of(preference_rows)


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory):
    """A small random Llama."""
    folder = tmp_path_factory.mktemp("models") / "random"
    inputs.save_random_model(folder, tokenizer)
    return folder


@dataclass(frozen=True)
class Prepared:
    """What `mmpo_train.prepare` made of the rows and the random model."""

    config: TrialConfig
    inputs: object
    places: object
    counts: dict
    storage: Path


@pytest.fixture(scope="session")
def base_config(model_folder, preference_rows, tmp_path_factory):
    """A trial of the random model on the rows, 8 pairs a step, without fingerprints."""
    data = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    values = {
        "model": str(model_folder),
        "dataset": (str(data),),
        "pairs_per_step": 8,
        "epochs": 1,
        "max_prompt_tokens": 64,
        "max_completion_tokens": 32,
        "tokens_per_pass": 512,
        "precision": "fp32",
    }
    return replace(TrialConfig(), values)


@pytest.fixture(scope="session")
def prepared(base_config, tmp_path_factory):
    """Token tables and reference store on disk, and the config with its fingerprints."""
    return _prepare(base_config, tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def bf16_prepared(base_config, tmp_path_factory):
    """The same for trials in bf16: the reference is computed in it too."""
    return _prepare(replace(base_config, {"precision": "bf16"}), tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def ranked_prepared(base_config, preference_rows, tmp_path_factory):
    """The same for sets of three to six ranked answers, some of them tied, with all that any objective needs."""
    data = tmp_path_factory.mktemp("data") / "ranked.jsonl"
    rows = []
    for number, row in enumerate(preference_rows):
        answers = [row["chosen"], row["rejected"], "No.", f"It is {number}.", "I do not know that.", "5"]
        kept = answers[: 3 + number % 4]
        ranks = [1, 3, 4, 4, 5, 6] if number % 3 else [1, 3, 4, 5, 6, 7]
        ranked = [{"answer": answer, "rank": rank} for answer, rank in zip(kept, ranks)]
        rows.append({"prompt": row["prompt"], "answers": ranked})
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(base_config, {"dataset": (str(data),), "objective": "kto"})
    return _prepare(config, tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3 that speaks real HTTP, on localhost (moto)."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server, tmp_path, monkeypatch):
    """`s3://NAME` of an empty bucket, and an environment that leads there; this node's copies lie in tmp_path."""
    import boto3

    environment = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests-secret",
        "MMPO_CACHE": str(tmp_path / "node-1"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{secrets.token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def _prepare(config, storage):
    from mmpo_train.model.reference import in_process
    from mmpo_train.prepare import identify, materialise

    inputs = identify(config, storage)
    places, counts = materialise(inputs, in_process, lambda what, share: None)
    return Prepared(inputs.config, inputs, places, counts, storage)
