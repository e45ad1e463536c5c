"""What cluster.yaml and its stack make Ray ask of AWS, against moto: a mock, which says nothing about prices, quotas,
capacity, or whether AWS itself would permit it."""

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.workers import REPOSITORY

pytest.importorskip("moto", reason="moto is not installed (make cluster-test installs it)")
pytestmark = pytest.mark.cluster

REGION = "us-east-1"
HOME_ADDRESS = "203.0.113.7/32"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty account of a mocked AWS; gives the file of a key pair in it."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws import config, utils

    for name, value in (("ACCESS_KEY_ID", "none"), ("SECRET_ACCESS_KEY", "none"), ("DEFAULT_REGION", REGION)):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        for cached in (utils.resource_cache, utils.client_cache, config._get_subnets_or_die):
            cached.cache_clear()
        key = boto3.client("ec2", REGION).create_key_pair(KeyName="ours")
        file = tmp_path / "ours.pem"
        file.write_text(key["KeyMaterial"])
        yield file


def stack_outputs(ssh_from: str = HOME_ADDRESS) -> dict[str, str]:
    """The stack made as its own comment says, in the account's default network."""
    import boto3

    (network,) = boto3.client("ec2", REGION).describe_vpcs()["Vpcs"]
    client = boto3.client("cloudformation", REGION)
    parameters = {"Vpc": network["VpcId"], "SshFrom": ssh_from}
    client.create_stack(
        StackName="mmpo-sweeps",
        TemplateBody=(REPOSITORY / "clusters" / "aws-stack.yaml").read_text(),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    (stack,) = client.describe_stacks(StackName="mmpo-sweeps")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def configuration(key_file: Path, outputs: dict[str, str]) -> dict[str, Any]:
    """cluster.yaml with a user's values, as `ray up` reads it."""
    import boto3
    from ray.autoscaler._private.util import prepare_config, validate_config

    image = boto3.client("ec2", REGION).describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    text = (REPOSITORY / "cluster.yaml").read_text()
    values = {
        "sg-CHANGE-ME": outputs["SecurityGroup"],
        "ami-CHANGE-ME": image,
        "~/.ssh/CHANGE-ME.pem": str(key_file),
        "&key_name CHANGE-ME": "&key_name ours",
        "s3://CHANGE-ME/mmpo": outputs["Storage"],
    }
    for given, value in values.items():
        assert text.count(given) == 1, given
        text = text.replace(given, value)
    text, changed = re.subn(r"(?<=zones: &zones ).+", f"{REGION}a,{REGION}b", text)
    assert changed == 1
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


def launched(config: dict[str, Any], node_type: str, count: int = 1) -> list[dict[str, Any]]:
    """Instances that Ray's own provider starts for a node type, as EC2 describes them afterwards."""
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {
        TAG_RAY_NODE_KIND: "head" if node_type == "head" else "worker",
        TAG_RAY_USER_NODE_TYPE: node_type,
        TAG_RAY_LAUNCH_CONFIG: node_type,
    }
    made = provider.create_node(copy.deepcopy(config["available_node_types"][node_type]["node_config"]), tags, count)
    described = boto3.client("ec2", REGION).describe_instances(InstanceIds=list(made))
    return [instance for reservation in described["Reservations"] for instance in reservation["Instances"]]


def bootstrapped(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    return AWSNodeProvider.bootstrap_config(config)


def test_the_group_lets_in_ssh_from_one_address_and_the_machines_themselves(account: Path) -> None:
    import boto3

    group = boto3.resource("ec2", REGION).SecurityGroup(stack_outputs()["SecurityGroup"])
    from_outside = [rule for rule in group.ip_permissions if rule.get("IpRanges") or rule.get("Ipv6Ranges")]
    inside = [rule for rule in group.ip_permissions if rule.get("UserIdGroupPairs")]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in from_outside] == [(22, 22, "tcp")]
    assert [source["CidrIp"] for source in from_outside[0]["IpRanges"]] == [HOME_ADDRESS]
    assert [[pair["GroupId"] for pair in rule["UserIdGroupPairs"]] for rule in inside] == [[group.id]]


def test_the_stack_names_its_bucket_as_storage(account: Path) -> None:
    import boto3

    storage = re.fullmatch(r"s3://([^/]+)/mmpo", stack_outputs()["Storage"])
    assert storage
    assert [bucket["Name"] for bucket in boto3.client("s3", REGION).list_buckets()["Buckets"]] == [storage[1]]


def test_gpu_machines_may_use_the_bucket_and_nothing_else(account: Path) -> None:
    import boto3

    bucket = stack_outputs()["Storage"].split("/")[2]
    iam = boto3.client("iam", REGION)
    assert iam.list_role_policies(RoleName="mmpo-sweeps-worker")["PolicyNames"] == []
    (attached,) = iam.list_attached_role_policies(RoleName="mmpo-sweeps-worker")["AttachedPolicies"]
    version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)["PolicyVersion"]["Document"]
    for statement in document["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert statement["Resource"].startswith(f"arn:aws:s3:::{bucket}")
        assert all(action.startswith("s3:") and "*" not in action for action in actions)


def test_the_head_may_touch_machines_of_this_cluster_only(account: Path) -> None:
    """Whatever changes something is bound to the cluster's tag, to what a launch needs, or to the workers' role."""
    import boto3

    stack_outputs()
    iam = boto3.client("iam", REGION)
    document = iam.get_role_policy(RoleName="mmpo-sweeps-head", PolicyName="machines")["PolicyDocument"]
    for statement in document["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        if all(action.startswith("ec2:Describe") for action in actions):
            continue
        assert "*" not in resources
        if any(":instance/" in one for one in resources) or actions == ["iam:PassRole"] or "ec2:CreateTags" in actions:
            assert statement["Condition"]["StringEquals"]
    tags = {
        key for statement in document["Statement"] for key in statement.get("Condition", {}).get("StringEquals", {})
    }
    assert {"aws:RequestTag/ray-cluster-name", "aws:ResourceTag/ray-cluster-name"} <= tags


def test_ray_makes_no_group_role_or_key_of_its_own(account: Path) -> None:
    import boto3

    def there() -> list[Any]:
        ec2, iam = boto3.client("ec2", REGION), boto3.client("iam", REGION)
        return [
            sorted(group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]),
            sorted(role["RoleName"] for role in iam.list_roles()["Roles"]),
            sorted(pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]),
        ]

    config = configuration(account, stack_outputs())
    before = there()
    bootstrapped(config)
    assert there() == before


@pytest.mark.parametrize(
    ("node_type", "instance_type", "market"),
    [
        ("head", "m7i.2xlarge", "on-demand"),
        ("l40s_spot", "g6e.12xlarge", "spot"),
        ("l40s_on_demand", "g6e.12xlarge", "on-demand"),
        ("h100_spot", "p5.48xlarge", "spot"),
        ("h100_on_demand", "p5.48xlarge", "on-demand"),
    ],
)
def test_a_machine_is_what_the_file_says(account: Path, node_type: str, instance_type: str, market: str) -> None:
    import boto3

    outputs = stack_outputs()
    config = bootstrapped(configuration(account, outputs))
    (instance,) = launched(config, node_type)
    assert instance["InstanceType"] == instance_type
    assert instance["KeyName"] == "ours"
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == [outputs["SecurityGroup"]]
    profile = "mmpo-sweeps-head" if node_type == "head" else "mmpo-sweeps-worker"
    assert instance["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{profile}")
    assert instance.get("InstanceLifecycle", "on-demand") == market
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags["ray-cluster-name"] == "mmpo-sweeps" and tags["ray-user-node-type"] == node_type
    volumes = [mapping["Ebs"] for mapping in instance["BlockDeviceMappings"]]
    assert [volume["DeleteOnTermination"] for volume in volumes] == [node_type != "head"]
    (volume,) = boto3.client("ec2", REGION).describe_volumes(VolumeIds=[volumes[0]["VolumeId"]])["Volumes"]
    assert volume["Encrypted"] and volume["Size"] == (200 if node_type == "head" else 500)


def test_the_head_is_stopped_and_found_again_with_its_disk(account: Path) -> None:
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    config = bootstrapped(configuration(account, stack_outputs()))
    (head,) = launched(config, "head")
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    provider.terminate_nodes([head["InstanceId"]])  # as `ray down` does
    assert boto3.resource("ec2", REGION).Instance(head["InstanceId"]).state["Name"] == "stopped"
    (again,) = launched(config, "head")
    assert again["InstanceId"] == head["InstanceId"]
    assert again["BlockDeviceMappings"] == head["BlockDeviceMappings"]


def test_a_group_that_was_not_changed_stops_ray_up_before_anything_is_started(account: Path, capsys) -> None:
    import boto3

    outputs = stack_outputs() | {"SecurityGroup": "sg-CHANGE-ME"}
    with pytest.raises(Exception):  # noqa: B017  Ray aborts with an exception class of its own
        bootstrapped(configuration(account, outputs))
    said = capsys.readouterr()
    assert "SecurityGroupIds" in said.out + said.err
    assert boto3.client("ec2", REGION).describe_instances()["Reservations"] == []


def test_the_stack_is_a_valid_template() -> None:
    linter = shutil.which("cfn-lint", path=str(REPOSITORY / ".venv" / "bin")) or shutil.which("cfn-lint")
    if not linter:
        pytest.skip("cfn-lint is not installed (make cluster-test installs it)")
    words = [linter, "--regions", REGION, "--", str(REPOSITORY / "clusters" / "aws-stack.yaml")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
