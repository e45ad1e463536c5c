"""The doctor against machines that are well, and against what can be broken on this one."""

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from eval_workers.settings import EvaluationSettings
from mmpo_train.config import TrialConfig, replace
from mmpo_train.errors import InputError
from sweeps.doctor import machine as doctor_machine
from sweeps.doctor import page as doctor_page
from sweeps.doctor import services as doctor_services
from sweeps.doctor import software as doctor_software
from sweeps.doctor.__main__ import main
from sweeps.doctor.findings import examine, fine
from tests.support.workers import REPOSITORY

H100 = {"name": "NVIDIA H100 80GB HBM3", "arch": "sm_90"}
SEEN = {"cuda": "12.8", "built_for": ["sm_80", "sm_90", "compute_120"], "gpus": [H100]}


@pytest.fixture
def ray_folder():
    """A folder of its own for Ray, with a path that is short enough for its sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as folder:
        yield folder


@pytest.fixture
def quick(monkeypatch, ray_folder):
    """Loads one library instead of all, and leaves out what the machine itself has set."""
    monkeypatch.setattr(doctor_software, "LIBRARIES", ("numpy",))
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MMPO_STORAGE", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", ray_folder)


def examined(capsys, *arguments) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit status, and findings by subject."""
    status = 0
    try:
        main([*arguments, "--json"])
    except SystemExit as stop:
        status = stop.code
    findings: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(capsys.readouterr().out):
        findings.setdefault(one["subject"], []).append(one)
    return status, findings


def verdicts(findings) -> list[str]:
    return [one.verdict for one in findings]


# The page.


def test_a_machine_that_can_run_tiny_is_told_so_and_nothing_is_made(quick, capsys, tmp_path):
    storage = tmp_path / "runs"
    status, findings = examined(capsys, "--storage", str(storage))
    assert status == 0 and not storage.exists()
    assert {one["verdict"] for some in findings.values() for one in some} <= {"fine", "note"}
    assert {"packages", "imports", "GPUs", "compiler", "memory", "storage", "Ray", "ledger", "hub"} <= set(findings)
    assert "stage 1 of 6 trials" in findings["storage"][0]["found"]
    assert "1 worker of 1" in findings["Ray"][0]["found"]


def test_every_problem_is_on_one_page_with_what_to_do(quick, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    arguments = ["--storage", "/proc/nowhere", "--tracking-uri", "http://127.0.0.1:9", "--objective", "on_mc_po"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--set", "judge=openai:gpt-4o"])
    page = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 1
    assert "4 problems: the stage cannot run yet" in page
    for advice in ("another folder with --storage", "ray up cluster.yaml", "mlflow server", "export OPENAI_API_KEY"):
        assert advice in page


@pytest.mark.slow
@pytest.mark.parametrize("program", [["-m", "sweeps.doctor"], ["sweeps/doctor/__main__.py"]], ids=" ".join)
def test_both_ways_to_call_it_load_every_library(program, ray_folder, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, *program, "--storage", str(tmp_path / "runs"), "--json"],
        cwd=REPOSITORY,
        env=environment | {"RAY_TMPDIR": ray_folder},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    [loaded] = [one["found"] for one in json.loads(run.stdout) if one["subject"] == "imports"]
    assert "deepspeed" in loaded and "mlflow" in loaded


def test_without_the_project_s_packages_it_says_how_to_install_them():
    program = "import sys; sys.modules['tyro'] = None; from sweeps.doctor.__main__ import main; main([])"
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "tyro" in run.stderr and "pip install -c constraints.txt -e ." in run.stderr


# Examinations.


def test_an_examination_that_hangs_or_breaks_is_a_problem_and_the_others_are_heard():
    def breaks():
        raise RuntimeError("http://user:hunter2@host is broken\nin two lines")

    started = time.monotonic()
    hangs = threading.Event()
    all_of_them = {
        "late": lambda: hangs.wait(30) and [],
        "broken": breaks,
        "refused": lambda: (_ for _ in ()).throw(InputError("give another")),
        "well": lambda: [fine("well", "token=abc")],
    }
    findings = examine(all_of_them, 0.5)
    hangs.set()
    assert time.monotonic() - started < 5
    assert verdicts(findings) == ["problem", "problem", "problem", "fine"]
    assert findings[0].found == "no answer in 0 s" and findings[2].found == "give another"
    assert findings[1].found == "RuntimeError: http://***@host is broken"
    assert findings[3].found == "token=***"


# Software.


def test_a_library_that_raises_and_one_that_takes_the_process_down_are_named(tmp_path, monkeypatch):
    (tmp_path / "torn.py").write_text("raise OSError('libcudart.so.12: no such file')")
    (tmp_path / "deadly.py").write_text("import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor_software, "LIBRARIES", ("torn", "json", "deadly", "csv"))
    findings, _ = doctor_software.imports(30)
    assert [one.subject for one in findings] == ["import torn", "import deadly"]
    assert "libcudart" in findings[0].found and "ends the process" in findings[1].found
    assert set(doctor_software._imported(("torn", "json", "deadly", "csv"), 30)) == {"torn", "json", "deadly", "csv"}


def test_a_library_that_never_loads_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor_software, "LIBRARIES", ("json", "endless", "csv"))
    findings, _ = doctor_software.imports(3)
    assert [(one.subject, one.found) for one in findings] == [("import endless", "not loaded in 3 s")]


def test_packages_are_held_against_the_pins_and_the_project_s_own_list(tmp_path, monkeypatch):
    assert doctor_software._pins()["numpy"], "the project's own constraints.txt is found"
    pins = tmp_path / "constraints.txt"
    pins.write_text("# comment\nnumpy==0.0.1\nnever-installed==1.0\n")
    monkeypatch.setattr(doctor_software, "_CONSTRAINTS", pins)
    [finding] = doctor_software.versions()
    assert finding.verdict == "note" and re.search(r"numpy \S+ \(tested: 0.0.1\)", finding.found)
    assert "never-installed" not in finding.found
    required = ["numpy", "no-such-package[extra]>=1", "trl; extra == 'dev'", "missing-extra; extra == 'dev'"]
    monkeypatch.setattr(doctor_software.importlib.metadata, "requires", lambda name: required)
    missing, differing = doctor_software.versions()
    assert (missing.verdict, missing.found) == ("problem", "not installed: no-such-package")
    assert differing.verdict == "note"


def test_a_compiler_that_is_missing_or_fails_matters_where_layers_are_compiled(tmp_path, monkeypatch):
    assert verdicts(doctor_software.compiler(compiles_layers=True)) == ["fine"]
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'fatal error: Python.h' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    [note] = doctor_software.compiler(compiles_layers=False)
    [problem] = doctor_software.compiler(compiles_layers=True)
    assert (note.verdict, problem.verdict) == ("note", "problem") and "Python.h" in problem.found
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert verdicts(doctor_software.compiler(compiles_layers=True)) == ["problem"]


# The machine.


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a driver's listing on the path: no GPU is here."""

    def lists(*rows: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{chr(10).join(rows)}\nEND\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return lists


ROW = "NVIDIA H100 80GB HBM3, 81559, {used}, 570.86.10"


def test_gpus_that_torch_computes_on_are_listed_with_their_driver(nvidia_smi):
    nvidia_smi(*[ROW.format(used=4)] * 4)
    [finding] = doctor_machine.gpus(4, SEEN, wanted=True)
    assert finding == fine("GPUs", "4 x NVIDIA H100 80GB HBM3 of 82 GB; driver 570.86.10, CUDA 12.8")


@pytest.mark.parametrize(
    ("devices", "torch", "used", "expected", "said"),
    [
        (1, {"cuda": None, "gpus": []}, 0, ["problem"], "a build for CPUs"),
        (1, {"cuda": "13.0", "gpus": []}, 0, ["problem"], "built for CUDA 13.0"),
        (1, SEEN | {"gpus": [{"name": "B200", "arch": "sm_100"}]}, 0, ["problem", "fine"], "no kernels for sm_100"),
        (1, SEEN, 40000, ["fine", "note"], "use 40 GB on 1 of 1"),
        (0, SEEN, 0, ["note"], "none of them usable: CUDA_VISIBLE_DEVICES=-1"),
    ],
)
def test_gpus_that_cannot_be_used_are_told_apart(nvidia_smi, monkeypatch, devices, torch, used, expected, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    nvidia_smi(ROW.format(used=used))
    findings = list(doctor_machine.gpus(devices, torch, wanted=True))
    assert verdicts(findings) == expected and said in "".join(one.found for one in findings)
    assert all(one.advice for one in findings if one.verdict != "fine")


def test_a_driver_that_does_not_answer_is_a_problem(nvidia_smi):
    nvidia_smi("Failed to initialize NVML: Driver/library version mismatch", status=18)
    [finding] = doctor_machine.gpus(2, {}, wanted=True)
    assert finding.verdict == "problem" and "does not answer" in finding.found


@pytest.mark.parametrize(
    ("built_for", "arch", "runs"),
    [
        (["sm_80", "sm_90"], "sm_90", True),
        (["sm_86"], "sm_89", True),  # kernels run on later minors of their major version
        (["sm_90"], "sm_89", False),
        (["sm_90"], "sm_100", False),
        (["compute_90"], "sm_120", True),  # PTX is compiled anew
        (["sm_90a"], "sm_90", True),
        ([], "sm_90", False),
    ],
)
def test_kernels_fit_gpus_as_nvidia_says(built_for, arch, runs):
    assert doctor_machine.runs_on(built_for, arch) is runs


def test_a_model_that_memory_cannot_hold_is_noted():
    found, *_ = doctor_machine.memory(10**15, 1, on_gpus=False)
    assert found.verdict == "note" and "a trial needs about 16000002.0 GB" in found.advice
    assert next(iter(doctor_machine.memory(0, 1, on_gpus=True))).subject == "memory"


def test_a_storage_without_room_or_that_cannot_be_written_is_a_problem(tmp_path):
    folder = tmp_path / "not" / "there"
    [fits, *_] = doctor_machine.disk(folder, 1e3, "stage 1")
    [full, *_] = doctor_machine.disk(folder, 1e18, "stage 1")
    assert (fits.verdict, full.verdict) == ("fine", "problem") and "1,000,000,000.00 GB" in full.found
    assert not folder.exists() and not list(tmp_path.iterdir())
    assert verdicts(doctor_machine.disk(Path("/proc/runs"), 1, "stage 1")) == ["problem"]


def test_the_file_system_is_that_of_the_innermost_mount():
    mounts = "overlay / overlay rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/sdb /data/fast\\040disk ext4 rw 0 0\n"
    assert doctor_machine.file_system(Path("/data/runs"), mounts) == "nfs4"
    assert doctor_machine.file_system(Path("/data/fast disk/runs"), mounts) == "ext4"
    assert doctor_machine.file_system(Path("/database"), mounts) == "overlay"


# Services.


def test_judges_without_a_key_are_a_problem_and_no_part_of_a_key_is_shown(quick, monkeypatch):
    trial = replace(TrialConfig(), {"objective": "on_mc_po", "judge": "openai:gpt-4o", "model": "some/model"})
    asked = replace(trial, {"evaluations": ("reward", "alpaca")})
    missing = list(doctor_services.judges(asked, EvaluationSettings()))
    assert verdicts(missing) == ["problem"] * 3  # the online judge's, and AlpacaEval's two
    key = "qwertyuiopasdfghjklzxcvbnm"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    [present] = doctor_services.judges(trial, EvaluationSettings())
    assert present == fine("judges", "openai:gpt-4o can be asked; OPENAI_API_KEY is set, ANTHROPIC_API_KEY is not set")
    monkeypatch.setenv("OPENAI_API_KEY", f"{key}\n{key}")
    [unusable] = doctor_services.judges(trial, EvaluationSettings())
    assert unusable.verdict == "problem"
    assert not any(key[start : start + 4] in unusable.found for start in range(len(key) - 3))


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does to who asks for access: by the repository's name."""

    def do_GET(self):
        codes = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "free": (200, "")}
        status, code = codes[self.path.split("/")[4]]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield server
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_for_access_to_what_is_planned(hub):
    findings = list(doctor_services.hub("owner/gated", ["owner/missing:train", "owner/free", "tiny"]))
    assert verdicts(findings) == ["problem", "problem", "fine"]
    assert "gated" in findings[0].found and "hf auth login" in findings[0].advice
    assert verdicts(doctor_services.hub("", ["tiny", __file__])) == ["fine"]


def test_a_hub_that_does_not_answer_is_a_problem_only_where_it_is_needed(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    [finding] = doctor_services.hub("owner/free", [])
    assert finding.verdict == "problem" and "http://127.0.0.1:9 cannot be asked" in finding.found
    assert verdicts(doctor_services.hub("", ["tiny"])) == ["fine"]


def test_a_ledger_is_found_or_promised_but_not_made(tmp_path):
    [promised] = doctor_services.tracking("", tmp_path)
    assert promised.verdict == "fine" and "will be made" in promised.found and not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="does not exist"):
        list(doctor_services.tracking(f"sqlite:///{tmp_path}/none/mlflow.db", tmp_path))
    from sweeps.ledger.ledger import connect

    ledger = connect(None, tmp_path)
    ledger.store.experiment_id("one")
    ledger.close()
    [found] = doctor_services.tracking("", tmp_path)
    assert found.verdict == "fine" and found.found.endswith("answers, experiments: 2")  # MLflow has one of its own


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", "fine"), ("0.0.0.0", "note"), ("::", "note")])
def test_a_port_that_other_machines_reach_is_noted(monkeypatch, host, expected):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        monkeypatch.setattr(doctor_services, "_PORTS", {server.getsockname()[1]: "MLflow"})
        found = said_of(server)
    assert ["listens on all addresses" in one for one in found] == [True] * (expected == "note")


def said_of(server):
    """What is noted of a server; others of this machine may be open too."""
    port = str(server.getsockname()[1])
    return [one.found for one in doctor_services.open_ports() if one.verdict == "note" and port in one.found]


def test_ray_s_ports_are_guarded_by_its_token(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with socket.create_server(("0.0.0.0", 0)) as server:
        monkeypatch.setattr(doctor_services, "_PORTS", {server.getsockname()[1]: "Ray"})
        assert len(said_of(server)) == 1
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        assert said_of(server) == []


def test_a_ray_and_an_mlflow_at_any_port_are_found_and_each_is_asked_for_its_own_token(monkeypatch):
    """Programs with such names, that listen on all addresses and do nothing else."""
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 0)); print(s.getsockname()[1], flush=True)"
    listen += "; time.sleep(60)"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    started = [
        subprocess.Popen([sys.executable, "-c", listen, name], stdout=subprocess.PIPE, text=True, env=os.environ | more)
        for name, more in (("mlflow", {}), ("gcs_server", {}), ("raylet", {"RAY_AUTH_MODE": "disabled"}))
    ]
    try:
        ports = [int(one.stdout.readline()) for one in started]
        found = " ".join(finding.found for finding in doctor_services.open_ports() if finding.verdict == "note")
    finally:
        for one in started:
            one.kill()
            one.wait()
    assert [str(port) in found for port in ports] == [True, False, True], found


def test_a_token_that_others_read_is_noted(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o644)
    last = list(doctor_services.open_ports())[-1]
    assert last.verdict == "note" and last.advice == f"chmod 600 {tmp_path / 'token'}"
    (tmp_path / "token").chmod(0o600)
    assert "chmod" not in list(doctor_services.open_ports())[-1].advice


# Ray.


def test_a_cluster_of_this_machine_that_is_not_used_is_noted(quick, ray_folder):
    from sweeps.doctor.cluster import ray_cluster

    (Path(ray_folder) / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (Path(ray_folder) / "ray" / "ray_current_cluster").write_text(address)
        _, finding = ray_cluster(doctor_page.DoctorOptions())
        assert finding.verdict == "note" and f"export RAY_ADDRESS={address}" in finding.advice
    assert verdicts(ray_cluster(doctor_page.DoctorOptions())) == ["fine"]  # nobody listens there any more


def test_a_trial_that_never_fits_is_a_problem(quick):
    from sweeps.doctor.cluster import ray_cluster

    [finding] = ray_cluster(doctor_page.DoctorOptions(workers_per_trial=999))
    assert finding.verdict == "problem" and "--workers-per-trial" in finding.found


@pytest.mark.parametrize(("variable", "other"), [("RAY_TMPDIR", "TMPDIR"), ("TMPDIR", "RAY_TMPDIR")])
def test_a_folder_in_which_ray_cannot_start_is_found_beforehand(quick, capsys, monkeypatch, tmp_path, variable, other):
    """Sockets of 107 bytes at most; and a folder that is a file."""
    monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / ("a" * 60)))
    status, findings = examined(capsys, "--storage", str(tmp_path / "runs"))
    [told] = findings["Ray"]
    assert status == 1 and told["verdict"] == "problem"
    assert f"({variable}) is too long a path for Ray" in told["found"] and "export RAY_TMPDIR=/tmp" in told["found"]
    monkeypatch.setenv(variable, "/dev/null")
    [told] = examined(capsys, "--storage", str(tmp_path / "runs"))[1]["Ray"]
    assert "/dev/null" in told["found"] and "cannot be written" in told["found"]


@pytest.mark.slow
def test_nodes_that_lack_what_is_here_and_a_trial_that_none_can_hold_are_named(quick, monkeypatch, tmp_path):
    """Two raylets on this machine: they share its file system and its packages."""
    # Ray's sockets need a short path, and its note of the latest cluster must not be found by others.
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray's own count of GPUs goes by it
    from ray.cluster_utils import Cluster

    from sweeps.doctor import cluster as doctor_cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    try:
        nodes.add_node(num_cpus=1, num_gpus=4, resources={"accelerator_type:L40S": 1})
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        found = list(doctor_cluster.ray_cluster(doctor_page.DoctorOptions(storage=str(tmp_path / "runs"))))
        assert verdicts(found) == ["fine", "fine", "fine"]
        assert "2 nodes" in found[0].found and "L40S" in found[0].found and "all 2 have" in found[2].found
        options = doctor_page.DoctorOptions(storage=str(tmp_path), accelerator="H100", workers_per_trial=4)
        _, placement, _ = doctor_cluster.ray_cluster(options)
        assert placement.verdict == "problem" and "4 GPUs of type H100" in placement.found
        monkeypatch.setattr(doctor_cluster, "_SAME_EVERYWHERE", ("pip",))
        *_, last = doctor_cluster.ray_cluster(options)
        assert last.verdict == "problem" and "pip missing" in last.found
    finally:
        nodes.shutdown()
