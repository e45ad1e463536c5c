"""cluster.yaml and cluster.local.yaml against Ray's own schema, this repository, and what a user is promised."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpo_train.recipes import RECIPES
from tests.support.workers import REPOSITORY

FILES = ("cluster.yaml", "cluster.local.yaml")
WORKER_TYPES = {"l40s_spot": "L40S", "l40s_on_demand": "L40S", "h100_spot": "H100", "h100_on_demand": "H100"}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / name).read_text())


def aws() -> dict[str, Any]:
    return load("cluster.yaml")


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file_by_its_own_schema(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", FILES)
def test_what_a_user_must_change_stands_at_the_top_and_nowhere_else(name: str) -> None:
    top, separator, rest = (REPOSITORY / name).read_text().partition("# ---- What follows from it")
    assert separator and "CHANGE-ME" in top and "CHANGE-ME" not in rest
    addresses = re.compile(r"\b(?:ami|sg|subnet|vpc)-[0-9a-f]{8,}|\b\d{12}\b|\b\d+\.\d+\.\d+\.\d+\b")
    assert set(addresses.findall(top + rest)) <= {"127.0.0.1", "0.0.0.0"}, "somebody's own account or machine"


def test_what_a_user_must_change_is_used() -> None:
    """An anchor that nothing refers to would be a setting without effect."""
    text = (REPOSITORY / "cluster.yaml").read_text()
    top, _, rest = text.partition("# ---- What follows from it")
    anchors = set(re.findall(r": &(\w+) ", top))
    assert len(anchors) >= 10
    assert anchors - set(re.findall(r"\*(\w+)\b", rest)) == set()


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_to_the_machines_is_there(name: str) -> None:
    mounts = load(name)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert {"mmpo_train", "eval_workers", "sweeps", "clusters"} <= set(mounts.values())
    for remote, local in mounts.items():
        assert remote == f"~/mmpo-sweeps/{local}"
        assert (REPOSITORY / local).exists(), local


def test_every_repository_script_that_the_files_run_is_there() -> None:
    named = {
        path for name in FILES for path in re.findall(r"(?<=mmpo-sweeps/)clusters/\w+", (REPOSITORY / name).read_text())
    }
    scripts = {f"clusters/{path.name}" for path in (REPOSITORY / "clusters").iterdir() if "." not in path.name}
    assert named == scripts
    assert all(os.access(REPOSITORY / path, os.X_OK) for path in named)


@pytest.mark.parametrize("name", FILES)
def test_ray_listens_with_a_token_and_its_dashboard_on_localhost(name: str) -> None:
    head = " ".join(load(name)["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head and "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "RAY_AUTH_MODE=token" in (REPOSITORY / "clusters" / "setup").read_text()


def test_gpu_machines_come_from_zero_and_say_what_ray_calls_them() -> None:
    from ray.util.accelerators.accelerators import NVIDIA_H100, NVIDIA_L40S

    types = aws()["available_node_types"]
    assert set(types) == {"head", *WORKER_TYPES}
    names = {"L40S": NVIDIA_L40S, "H100": NVIDIA_H100}
    for name, accelerator in WORKER_TYPES.items():
        gpus = 4 if accelerator == "L40S" else 8
        cpus = 48 if accelerator == "L40S" else 192
        expected = {"CPU": cpus, "GPU": gpus, f"accelerator_type:{names[accelerator]}": 1}
        assert types[name]["min_workers"] == 0 and types[name]["resources"] == expected


def test_every_recipe_fits_on_a_machine_of_some_type() -> None:
    types = aws()["available_node_types"].values()
    rooms = [
        (resources.get("GPU", 0), name.removeprefix("accelerator_type:"))
        for resources in (one["resources"] for one in types)
        for name in resources
        if name.startswith("accelerator_type:")
    ]
    asked = {(recipe.workers, recipe.accelerator) for recipe in RECIPES.values() if recipe.accelerator}
    assert asked, "no recipe asks for an accelerator"
    for workers, accelerator in asked:
        # L40, the paper's, is served by L40S machines.
        assert any(gpus >= workers and kind.startswith(accelerator) for gpus, kind in rooms), (workers, accelerator)


def test_nothing_that_asks_for_a_cpu_or_a_gpu_lands_on_the_head() -> None:
    head = aws()["available_node_types"][aws()["head_node_type"]]
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0


def test_spot_is_taken_first_and_on_demand_is_a_number_away() -> None:
    types = aws()["available_node_types"]
    for kind in ("l40s", "h100"):
        spot, on_demand = types[f"{kind}_spot"], types[f"{kind}_on_demand"]
        assert spot["priority"] > on_demand["priority"] and spot["max_workers"] > 0 and on_demand["max_workers"] == 0
        market = spot["node_config"].pop("InstanceMarketOptions")
        assert market == {"MarketType": "spot"} and spot["node_config"] == on_demand["node_config"]


def test_machines_are_closed_and_their_disks_encrypted() -> None:
    for name, node_type in aws()["available_node_types"].items():
        node = node_type["node_config"]
        assert node["SecurityGroupIds"] == ["sg-CHANGE-ME"], "Ray's own group opens ssh to the world"
        assert node["IamInstanceProfile"] == {"Name": f"mmpo-sweeps-{'head' if name == 'head' else 'worker'}"}
        assert node["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        (disk,) = node["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] and disk["Ebs"]["DeleteOnTermination"] == (name != "head")


def stack() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """CloudFormation's short forms, as plain values."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: f"{suffix} {node.value}")
    return yaml.load((REPOSITORY / "clusters" / "aws-stack.yaml").read_text(), Loader)


def test_the_names_of_the_stack_are_those_that_cluster_yaml_uses() -> None:
    made = stack()
    assert made["Parameters"]["ClusterName"]["Default"] == aws()["cluster_name"]
    names = {made["Resources"][one]["Properties"]["InstanceProfileName"] for one in ("HeadProfile", "WorkerProfile")}
    assert names == {"Sub ${ClusterName}-head", "Sub ${ClusterName}-worker"}


def test_the_stack_has_no_yaml_anchors_which_cloudformation_refuses() -> None:
    events = yaml.parse((REPOSITORY / "clusters" / "aws-stack.yaml").read_text())
    assert [event for event in events if getattr(event, "anchor", None)] == []


def test_the_bucket_of_the_stack_is_private_encrypted_and_stays() -> None:
    bucket = stack()["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert list(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == [True] * 4
    assert bucket["Properties"]["BucketEncryption"]


@pytest.mark.parametrize(
    ("addresses", "may"),
    [("203.0.113.7/32", True), ("203.0.113.0/24", True), ("0.0.0.0/0", False), ("10.0.0.0/8", False), ("", False)],
)
def test_the_stack_refuses_ssh_from_everywhere(addresses: str, may: bool) -> None:
    assert bool(re.fullmatch(stack()["Parameters"]["SshFrom"]["AllowedPattern"], addresses)) is may


def test_settings_reach_a_shell_as_they_were_written(tmp_path: Path) -> None:
    """The command that keeps them is run as it stands, with values that a shell would take apart."""
    (tmp_path / "mmpo-sweeps").mkdir()
    for name in FILES:
        command = load(name)["setup_commands"][0]
        storage = re.search(r"MMPO_STORAGE=(\S+)", command)
        assert storage
        command = command.replace(storage[1], "'/shared/two words/$x'")
        subprocess.run(["bash", "-c", command], check=True, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
        shown = subprocess.run(
            ["bash", "-c", '. ~/mmpo-sweeps/cluster.env && printf \'%s\n\' "$MMPO_STORAGE" "$MMPO_MLFLOW_DATABASE"'],
            check=True,
            capture_output=True,
            text=True,
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        )
        assert shown.stdout.splitlines() == ["/shared/two words/$x", f"sqlite:///{tmp_path}/mlflow.db"]


def test_a_storage_that_was_not_changed_stops_the_setup(tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    shutil.copy(REPOSITORY / "clusters" / "setup", tmp_path / "clusters")
    (tmp_path / "cluster.env").write_text("export MMPO_STORAGE=s3://CHANGE-ME/mmpo\n")
    done = subprocess.run(
        [tmp_path / "clusters" / "setup"], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 1 and "MMPO_STORAGE still says CHANGE-ME" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [path for path in sorted((REPOSITORY / "clusters").iterdir()) if path.read_text().startswith("#!")]
    assert len(scripts) == 5
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
