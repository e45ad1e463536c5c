"""Whether this machine, or the cluster at RAY_ADDRESS, can run what is planned; and if not, what to do.

python -m sweeps.doctor --model tiny            the options are those of the stage that is planned

Exit status 0 says that it can run, 1 that it cannot. Nothing is trained, made or changed. This file loads nothing but
the standard library: what is not installed is one of the answers.
"""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Examine, print the page, exit."""
    try:
        from mmpo_train.terminal import run_program
        from sweeps.doctor.page import DoctorOptions, print_page
    except ImportError as error:
        print(f"error: {error}; install this project first: pip install -c constraints.txt -e .", file=sys.stderr)
        sys.exit(1)
    run_program(DoctorOptions, print_page, "python -m sweeps.doctor", arguments)


if __name__ == "__main__":
    main()
