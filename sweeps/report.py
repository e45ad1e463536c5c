"""The report: the paper's tables and figures from the ledger, ours beside theirs.

python sweeps/report.py
python sweeps/report.py --compare RUN_A RUN_B
python sweeps/report.py --card RUN
"""

from __future__ import annotations

from mmpo_train.terminal import run_program
from sweeps.reporting.report import ReportOptions, write_report


def main(arguments: list[str] | None = None) -> None:
    """Write from the command line."""
    run_program(ReportOptions, write_report, "python sweeps/report.py", arguments)


if __name__ == "__main__":
    main()
