"""Secrets are made up here from an alphabet, so that none of the real kind stands in the repository."""

import json
import logging
import random
import subprocess
import sys
import time

import pytest

from mmpo_train.redaction import masked, masked_values

WORD = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
PASSWORD = WORD + "@!$%^*+-_.~"
HEX = "0123456789abcdef"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

# A text with a secret, how many characters that has, and of which alphabet.
SHAPES = {
    "a password in an address": ("postgresql://ana:{}@db.example.org/runs", 12, WORD),
    "an @ in it": ("postgresql://ana:{}@db.example.org/runs", 12, WORD + "@"),
    "a slash in it": ("mysql+pymysql://ana:x{}@db.example.org:3306/runs", 12, WORD + "/@"),
    "a # and a ? in it": ("redis://:x{}@cache:6379/0", 12, WORD + "#?"),
    "percent signs in it": ("http://ana:{}@mlflow:5000/#/experiments/1", 12, WORD + "%"),
    "a quote in it": ("amqp://ana:{}'x@queue", 12, WORD),
    "a user alone": ("https://{}@github.com/ana/models.git", 20, WORD),
    "an address in prose": ("cannot reach https://ana:{}@host, which is down", 12, WORD),
    "two addresses": ("http://a:1{0}@one/x and http://b:2{0}@two/y", 12, WORD),
    "OPENAI_API_KEY": ("OPENAI_API_KEY={} python sweeps/stage1_lr.py", 24, WORD),
    "ANTHROPIC_API_KEY, exported": ("export ANTHROPIC_API_KEY='{}'", 24, PASSWORD),
    "AWS_SECRET_ACCESS_KEY": ("AWS_SECRET_ACCESS_KEY={}", 40, WORD + "/+"),
    "AWS_ACCESS_KEY_ID": ("AWS_ACCESS_KEY_ID={}", 20, UPPER),
    "AWS_SESSION_TOKEN": ("AWS_SESSION_TOKEN={}", 60, WORD + "/+="),
    "HF_TOKEN": ("HF_TOKEN={}", 16, WORD),
    "HUGGING_FACE_HUB_TOKEN": ('HUGGING_FACE_HUB_TOKEN="{}"', 16, WORD),
    "WANDB_API_KEY": ("WANDB_API_KEY: {}", 40, HEX),
    "MLFLOW_TRACKING_PASSWORD": ("MLFLOW_TRACKING_PASSWORD={}", 10, PASSWORD),
    "PGPASSWORD": ("PGPASSWORD={} psql -h db", 10, PASSWORD),
    "DB_PASS": ("DB_PASS={}", 10, WORD),
    "any _KEY of the environment": ("STRIPE_KEY={}", 16, WORD),
    "a numbered variable": ("GITHUB_TOKEN_2={}", 16, WORD),
    "SECRET_KEY_BASE": ("SECRET_KEY_BASE={}", 32, HEX),
    "password with spaces around": ("password = {}", 8, PASSWORD),
    "password in YAML": ("password: {}", 8, WORD),
    "password in JSON": ('{{"user": "ana", "password": "{}", "port": 5432}}', 10, PASSWORD + "&;,"),
    "password in a dict": ("{{'user': 'ana', 'password': '{}'}}", 10, PASSWORD + "&;,"),
    "a quote in a JSON password": (r'{{"password": "a\"{}"}}', 10, WORD),
    "JSON in JSON": (r'{{"body": "{{\"password\": \"{}\"}}"}}', 10, WORD),
    "a JSON string that was cut": ('{{"password": "{}', 10, WORD),
    "a comma and a semicolon inside": ("connect(password=a,b;c{}) failed", 8, WORD),
    "a connection string": ("Server=db;User Id=ana;Password={};Encrypt=yes", 10, WORD),
    "Azure's connection string": ("AccountName=runs;AccountKey={}==;EndpointSuffix=core", 40, WORD + "/+"),
    "SharedAccessKey": ("Endpoint=sb://bus;SharedAccessKey={}", 40, WORD),
    "a libpq string": ("host=db user=ana password={} dbname=runs", 10, PASSWORD),
    "client_secret": ('"client_secret": "{}"', 16, WORD),
    "clientSecret": ("clientSecret={}", 16, WORD),
    "secret": ("secret={}", 8, WORD),
    "access_token": ('{{"access_token": "{}", "expires_in": 3600}}', 20, WORD),
    "refreshToken": ("refreshToken={}", 20, WORD),
    "token in a query": ("GET /data?token={}&split=train", 8, WORD),
    "token in prose": ("the server refused token: {}", 12, HEX),
    "api_key in a call": ("OpenAI(api_key='{}', timeout=60)", 20, WORD),
    "a header's token": ("X-Auth-Token: {}", 8, "abcdefghijk"),
    "auth_token in YAML": ("auth_token: {}", 8, "abcdefghijk"),
    "an environment as Python shows it": ("environ({{'STRIPE_KEY': '{}', 'HOME': '/home/ana'}})", 12, WORD),
    "an API key in prose": ("the API key: {} is not valid", 16, WORD),
    "Ruby's arrow": ('{{"password"=>"{}"}}', 12, WORD),
    "X-Api-Key": ("X-Api-Key: {}", 20, WORD),
    "an escaped =": ("redirect_uri=x&password%3D{}", 12, WORD),
    ".npmrc": ("//registry.example.org/:_authToken={}", 20, WORD),
    "--api-key X": ("judge --api-key {} --limit 6", 20, WORD),
    "--api-key=X": ("judge --api-key={} --limit 6", 20, WORD),
    "--password 'X Y'": ("mysql --password 'a {}' runs", 10, WORD),
    "--hf-token in a list": ("['run', '--hf-token', '{}']", 20, WORD),
    "curl -u": ("curl -u ana:{} https://host", 10, WORD),
    ".netrc": ("machine host login ana password {}", 10, PASSWORD),
    "X-Amz-Signature": ("https://b.s3.amazonaws.com/x?X-Amz-Expires=60&X-Amz-Signature={}", 64, HEX),
    "X-Amz-Credential": ("https://b.s3.amazonaws.com/x?X-Amz-Credential={}/20261127/us-east-1", 20, UPPER),
    "X-Goog-Signature": ("https://storage.googleapis.com/b/x?X-Goog-Signature={}&x=1", 64, HEX),
    "sig=": ("https://runs.blob.core.windows.net/c/x?sv=2026&sig={}%3D", 40, WORD + "%"),
    "Signature=": ("https://b.s3.amazonaws.com/x?AWSAccessKeyId=1&Expires=9&Signature={}", 27, WORD + "%"),
    "key= in a query": ("https://api.example.org/v1?key={}", 20, WORD),
    "AWS's header": ("Authorization: AWS4-HMAC-SHA256 Credential={0}/x, SignedHeaders=host, Signature={0}", 20, HEX),
    "Authorization: Bearer": ("Authorization: Bearer {}", 24, WORD),
    "Authorization: Basic": ("'Authorization': 'Basic {}=='", 14, WORD),
    "Authorization: token": ('curl -H "Authorization: token {}" https://host', 20, WORD),
    "Proxy-Authorization": ("Proxy-Authorization: {}", 20, WORD),
    "Bearer in prose": ("sent Bearer {} and was refused", 24, WORD),
    "Cookie": ("Cookie: session={}; theme=dark", 24, WORD),
    "a private key": ("-----BEGIN RSA PRIVATE KEY-----\n{0}\n{0}\n-----END RSA PRIVATE KEY-----", 64, WORD + "+/"),
    "a private key that was cut": ("-----BEGIN OPENSSH PRIVATE KEY-----\n{}", 64, WORD + "+/"),
    "a private key in JSON": (r'"-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"', 64, WORD + "+/"),
    "a Slack webhook": ("https://hooks.slack.com/services/T0/B0/{}", 24, WORD),
    "a JWT": ("eyJhbGciOiJIUzI1NiJ9.{0}.{0}", 30, WORD),
}  # fmt: skip
PREFIXES = {
    "hf_": 34, "sk-": 48, "sk-proj-": 60, "sk-ant-api03-": 60, "sk-or-v1-": 64, "sk_live_": 24, "ghp_": 36, "gho_": 36,
    "ghu_": 36, "ghs_": 36, "ghr_": 36, "github_pat_": 60, "glpat-": 20, "gldt-": 20, "glrt-": 20, "xoxb-": 40,
    "xoxp-": 40, "xapp-": 40, "AIza": 35, "ya29.": 60, "GOCSPX-": 28, "npm_": 36, "pypi-AgEIcHlwaS5vcmc": 60,
    "dckr_pat_": 27, "dop_v1_": 64, "gsk_": 52, "xai-": 80, "r8_": 37, "nvapi-": 64, "pplx-": 48, "lsv2_pt_": 32,
    "dapi": 32, "hvs.": 24, "whsec_": 32, "shpat_": 32, "ATATT3": 60, "tskey-auth-": 20,
}  # fmt: skip
SHAPES |= {f"{prefix}…": (f"refused: {prefix}{{}}.", length, WORD) for prefix, length in PREFIXES.items()}
SHAPES |= {f"{prefix}…": (f"{prefix}{{}} is no key", 16, UPPER) for prefix in ("AKIA", "ASIA")}

INNOCENT = [
    "tokens_per_pass=2048, max_prompt_tokens=1800, max_completion_tokens=512",
    "TOKENS_PER_PASS=16384",
    "learning_rate=5e-07 beta=0.01 margin=0.6 gamma_over_beta=1.2 seed=42",
    "--set tokens_per_pass=4096 --set epochs=1",
    "stage.grid_key: 1e-4,5e-4,1e-3",
    "grid_key=3f2a9c",
    "9b7b8e71f5f16a2c",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3f  runs/models/tiny/model.safetensors",
    "run 4f1c2b3a5d6e7f8091a2b3c4d5e6f708 of experiment 1",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "princeton-nlp/llama3-ultrafeedback:train_prefs:test_prefs",
    "meta-llama/Llama-3.2-1B",
    "openai:gpt-4o-mini-2024-07-18@http://127.0.0.1:8000/v1,price=0.15/0.6",
    "openai:a@http://host:8000/v1,openai:b@http://other:8000/v1",
    "openai:a@http://host,openai:b@http://other",
    "weighted_alpaca_eval_gpt-4o-mini-2024-07-18",
    "claude-haiku-4-5-20251001",
    "git+https://github.com/ana/models.git@v1.2",
    "hf://datasets/ana/pairs@main/train.parquet",
    "s3://bucket/path/runs and gs://bucket/runs",
    "sqlite:////home/ana/runs/mlflow.db",
    "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=4f1c2b3a5d6e7f80",
    "postgresql+psycopg://db.example.org/runs?sslmode=require",
    "http://host:5000/api/2.0/mlflow/runs?page=2&max_results=1000",
    "write to ana@example.org or to http://host:80/a@b",
    "the first token of each completion is masked; a token: four bytes of text",
    "0.013 seconds per token: 76.9 tokens a second",
    "eos_token=<|im_end|> pad_token=<pad> bos_token: <s>",
    '{"token": "A", "logprob": -0.25}, {"token": " tie", "logprob": -1.5}',
    "'eos_token': '<|endoftext|>', 'unk_token': None",
    "seconds_per_token=0.013 nll_per_token: 2.313456 first_token=42",
    "pad_token_id=0, eos_token_ids=[2, 128001]",
    "OPENAI_API_KEY is not set; export OPENAI_API_KEY where judging runs",
    "judge 'openai:gpt' needs a key, and OPENAI_API_KEY is not set",
    "RAY_AUTH_MODE=token for the whole cluster",
    "RAY_AUTH_TOKEN_PATH=/home/ana/.ray/auth_token",
    "def connect(password: str, api_key: str | None = None, token: str = '') -> None",
    "OpenAI(api_key=None, base_url=None)",
    "no password, no secret: the cluster is open",
    "Access tokens are made on the hub's page, then `hf auth login`",
    "Bearer tokens are refused without TLS",
    "of_a_token = 6 * trained; one_token = 1; tokens: 2 of 3",
    "ssh_private_key: ~/.ssh/id_ed25519, ~/.ray/auth_token: ~/.ray/auth_token",
    "credentials: https://docs.example.org/how-to-sign-in",
    "page_token=eyJvZmZzZXQiOiAxMDAwfQ",
    "basic settings, Basic Instructions, basic_config",
    "PWD=/home/ana/mmpo OLDPWD=/home",
    "sorted(rows, key=lambda row: row.step)",
    "key=value, sort_key=name",
    "signature=(prompt, completion) sig=0.05",
    "significance=0.012, sig = 0.05",
    "scikit-learn, sk-learn-contrib, task-specific-model-names",
    "hf_hub_download_url and hf_transfer and hf_model_weights",
    "glossary-2026, glue-mnli-matched",
    "harness/mean_accuracy validation/reward_accuracy train/loss",
    "runs/trials/9b7b8e71f5f16a2c/checkpoints/epoch-0002",
    "2026-11-27 10:15:03,123 WARNING step 128/128 loss 0.6931",
    "mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///mlflow.db",
    "docker run -u 1000:1000 image",
    "the winner is 5e-4 (0.912 ± 0.010); p = 0.03",
    "[bold red]error:[/] nothing to judge",
    "",
]


def secret_of(length: int, alphabet: str, seed: int) -> str:
    """Letters and digits at both ends, so that the alphabet's other characters stand inside."""
    draw = random.Random(f"{length} {alphabet} {seed}")
    ends = [one for one in alphabet if one.isalnum()]
    return "".join([draw.choice(ends), *draw.choices(alphabet, k=length - 3), draw.choice(ends), str(seed)])


def leaked(text: str, secret: str) -> str:
    """The first five characters in a row of the secret that the text shows; empty where there are none."""
    return next((secret[at : at + 5] for at in range(len(secret) - 4) if secret[at : at + 5] in text), "")


@pytest.mark.parametrize("shape", SHAPES)
def test_no_part_of_a_secret_is_left(shape):
    template, length, alphabet = SHAPES[shape]
    for seed in range(8):
        secret = secret_of(length, alphabet, seed)
        text = template.format(secret)
        for said in (text, f"ValueError: {text}\nstep 3 of 4", json.dumps({"reason": text}), repr([text]), f"({text})"):
            shown = masked(said)
            assert not leaked(shown, secret), (said, shown)
            assert "***" in shown
            assert masked(shown) == shown, "masked text stays as it is"


@pytest.mark.parametrize("text", INNOCENT)
def test_a_text_without_a_secret_stays_as_it_is(text):
    for said in (text, f"{text}\n{text}", json.dumps({"reason": text})):
        assert masked(said) == said


def test_what_stands_around_a_secret_stays():
    assert masked("GET /data?token=abc123&split=train") == "GET /data?token=***&split=train"
    assert masked("at postgresql+psycopg://ana:p@ss@db/x?sslmode=require") == (
        "at postgresql+psycopg://***@db/x?sslmode=require"
    )
    assert masked("hf_abcdefghijklmnopqrstuvwx in the log") == "hf_*** in the log"
    assert masked("a=1 password='x y', b=2") == "a=1 password='***', b=2"
    assert masked("f(password=abc).g()") == "f(password=***).g()"


def test_json_that_is_masked_is_json_still():
    for template, length, alphabet in SHAPES.values():
        text = json.dumps({"reason": template.format(secret_of(length, alphabet, 1)), "step": 3})
        assert json.loads(masked(text))["step"] == 3


def test_values_are_masked_wherever_they_hold_text():
    given = {"model": "http://a:secret1@host/x", "password": "hunter2", "list": [1, None, ["token=abc"]], "beta": 0.1}
    assert masked_values(given) == {
        "model": "http://***@host/x",
        "password": "***",
        "list": [1, None, ["token=***"]],
        "beta": 0.1,
    }


@pytest.mark.parametrize(
    "piece",
    ["a", "A1", "://", "://a:b", "token", "token=", "password: ", "--", '"', "\\", "eyJ", "Bearer ", "_KEY", "@"],
)
def test_a_long_text_takes_time_in_proportion(piece):
    """A megabyte of what patterns begin with; going back to each start would take hours."""
    began = time.monotonic()
    masked(piece * (20_000 // len(piece)))
    assert time.monotonic() - began < 5


def test_logs_and_tracebacks_of_a_program_show_no_secret():
    code = """
import logging
from mmpo_train.redaction import mask_logs
for _ in range(2_000):
    mask_logs()
log = logging.getLogger("some.library")
log.warning("GET %s failed", "https://ana:hunter2@host/x")
try:
    raise ValueError("password=hunter2")
except ValueError:
    log.exception("again")
raise OSError("token=hunter2")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert "GET https://***@host/x failed" in run.stderr
    assert "ValueError: password=***" in run.stderr and run.stderr.rstrip().endswith("OSError: token=***")
    assert "hunter2" not in run.stderr.replace('"https://ana:hunter2', "").replace('"password=hunter2', "")


def test_a_record_keeps_what_it_says_without_secrets(caplog):
    logging.getLogger("x").warning("%d of %d", 3, 4)
    assert "3 of 4" in caplog.text
