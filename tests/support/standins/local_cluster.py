"""The repository's cluster.local.yaml with a user's values."""

import re
from pathlib import Path

from tests.support.standins.hosts import Hosts
from tests.support.workers import REPOSITORY

LOCAL = "cluster.local.yaml"


def rendered(hosts: Hosts) -> Path:
    """The file as a user of these machines would save it: nothing differs but the values that are theirs to change."""
    text = (REPOSITORY / LOCAL).read_text()
    head, *workers = (machine.address for machine in hosts.machines)
    values = {
        r"(?<=\n  head_ip: ).+": head,
        r"(?<=\n  worker_ips: ).+": f"[{', '.join(workers)}]",
        r"(?<=\n  ssh_user: ).+": "root",
        r"(?<=\n  ssh_private_key: )\S+": str(hosts.key),
        r"(?<=\n    MMPO_STORAGE=).+": str(hosts.shared / "mmpo"),
        r"(?<=\n    MMPO_MLFLOW_HOST=).+": "0.0.0.0",
    }
    for pattern, value in values.items():
        text, changed = re.subn(pattern, value, text)
        assert changed == 1, pattern
    path = hosts.folder / LOCAL
    path.write_text(text)
    return path
