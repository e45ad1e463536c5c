"""Programs in a Python of their own, where libraries may be missing."""

import os
import subprocess
import sys

from tests.support.workers import REPOSITORY

# Every finder of modules says of these that it knows none, as on a machine where they are not installed.
WITHOUT = """
import json, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in BLOCKED else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

BLOCKED = json.loads(sys.argv[1])
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def run_python(program, *arguments):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout
