"""Learning rate, beta and margin at once, instead of one after the other: Optuna's TPE with ASHA, at the same budget.

mmpo joint --objective mmpo --model tiny
"""

from mmpo_train.terminal import run_program
from sweeps.search.joint import JointOptions, run_joint_search
from sweeps.trials.runner import Runner


def main(arguments: list[str] | None = None, runner: Runner | None = None) -> None:
    """Run the search from the command line."""
    run_program(JointOptions, lambda options: run_joint_search(options, runner), "mmpo joint", arguments)


if __name__ == "__main__":
    main()
