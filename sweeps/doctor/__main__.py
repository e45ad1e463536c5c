"""Whether this machine, or the cluster at RAY_ADDRESS, can run a planned stage; and if not, what to do.

mmpo doctor --model tiny            with the options of the planned stage

Exit status 0 means that the stage can run, 1 that it cannot. Nothing is trained, made or changed. This file imports
only the standard library, since a missing package is one of the possible answers.
"""

import sys


def main(arguments: list[str] | None = None) -> None:
    """Examine, print the page and exit."""
    try:
        from mmpo_train.terminal import run_program
        from sweeps.doctor.page import DoctorOptions, print_page
    except ImportError as error:
        print(f"error: {error}; install this project first: pip install -c constraints.txt -e .", file=sys.stderr)
        sys.exit(1)
    run_program(DoctorOptions, print_page, "mmpo doctor", arguments)


if __name__ == "__main__":
    main()
