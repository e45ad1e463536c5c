"""The report: the paper's tables and figures from the ledger, ours beside theirs.

mmpo report
mmpo report --compare RUN_A RUN_B
mmpo report --card RUN
"""

from mmpo_train.terminal import run_program
from sweeps.reporting.report import ReportOptions, write_report


def main(arguments: list[str] | None = None) -> None:
    """Write from the command line."""
    run_program(ReportOptions, write_report, "mmpo report", arguments)


if __name__ == "__main__":
    main()
