"""benchmarks/gpu.py: a part that fails, hangs or has no time left costs no other its figures."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu

WRITES = "import json, sys, time\nplace = sys.argv[sys.argv.index('--json') + 1]\n"
WRITES += "open(place, 'w').write(json.dumps({'machine': 'a card', 'rows': [{'shape': sys.argv[1], 's': 0.25}]}))\n"


def test_what_each_part_found_is_kept_whatever_becomes_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings = {"works": "", "fails": "sys.exit(3)", "hangs": "time.sleep(600)", "late": "", "last": ""}
    parts = {}
    for name, ending in endings.items():
        script = tmp_path / f"{name}.py"
        script.write_text(WRITES + ending)
        parts[name] = gpu.Part(2.0 if name == "hangs" else 60.0, 1e9 if name == "late" else 1.0, str(script), (name,))
    monkeypatch.setattr(gpu, "PARTS", parts)
    gpu.main(["--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    states = {name: one["state"].partition(":")[0].partition(",")[0] for name, one in found.items()}
    assert states == {
        **{"works": "done", "fails": "failed with 3", "hangs": "ended after its 2 s"},
        **{"late": "left out", "last": "done"},
    }
    assert {name for name, one in found.items() if one.get("figures")} == {"works", "fails", "hangs", "last"}
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "On a card." in page and "| hangs | 0.25 |" in page


def test_every_part_can_be_rehearsed_on_a_cpu() -> None:
    """`--rehearse` gives each part other arguments, and the scripts are there."""
    for part in gpu.PARTS.values():
        assert part.on_cpu != part.arguments and (gpu.HERE / part.script).is_file() and part.least < part.seconds
