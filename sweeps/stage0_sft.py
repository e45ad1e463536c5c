"""Stage 0 of Section 4.1: the starting point, instruction-tuned from a pre-trained model.

mmpo sft --model HuggingFaceTB/SmolLM2-135M
"""

from mmpo_train.terminal import run_program
from sweeps.plan.options import SFTOptions
from sweeps.search.instruction_tuning import run_stage0


def main(arguments: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_program(SFTOptions, run_stage0, "mmpo sft", arguments)


if __name__ == "__main__":
    main()
