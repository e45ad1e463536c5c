"""Train one trial in this process, without Ray, DeepSpeed or MLflow: `mmpo train`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from mmpo_train.options import Options


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Train one trial in this process, without Ray, DeepSpeed or MLflow."""

    learning_rate: float = 5e-4
    """Peak learning rate."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, prepare the inputs, train, and print where the checkpoints are."""
    from mmpo_train.terminal import run_program

    run_program(TrainOptions, _train, "mmpo train", arguments)


def train(options: TrainOptions) -> tuple[Path, str]:
    """Prepare the inputs and train; returns the trial's folder, and why it diverged or nothing. Raises InputError."""
    from mmpo_train.config import ONLINE_OBJECTIVES, replace
    from mmpo_train.errors import InputError, Left
    from mmpo_train.options import base_config
    from mmpo_train.terminal import console, ended_by, preparing, print_examples, tell, told_by_signal, training_bar
    from mmpo_train.typed.programs import as_typed

    config = replace(base_config(options), {"learning_rate": options.learning_rate})
    if config.objective in ONLINE_OBJECTIVES:
        raise InputError(
            f"{config.objective} needs processes that answer prompts and judge the answers; use a sweep: "
            + as_typed(f"mmpo stage1 --objective {config.objective} --learning-rates {options.learning_rate:g}")
        )
    tell("reading the model and the data")
    import torch

    from mmpo_train.model.reference import in_process
    from mmpo_train.prepare import count_tokens, identify, materialise
    from mmpo_train.storage.mirror import check_access
    from mmpo_train.training import train_here

    if config.precision == "auto":
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        config = replace(config, {"precision": "bf16" if has_bf16 else "fp32"})
    storage = options.folder
    check_access(storage)
    inputs = identify(config, storage, strict=options.strict, drop_bad_rows=options.drop_bad_rows)
    with preparing() as say:
        counts = count_tokens(inputs, say)
    for line in inputs.data.audit.lines() + [line for split, count in counts.items() for line in count.lines(split)]:
        console.print(line, style="dim", highlight=False)
    if options.show_examples:
        print_examples(inputs, options.show_examples)
    with preparing() as say:
        places, _ = materialise(inputs, in_process, say)
    with training_bar(inputs.config) as hear, told_by_signal() as told:
        try:
            reason = train_here(inputs.config, places, hear, told_to_go=lambda: bool(told()))
        except Left:
            raise ended_by(told()) from None
    return places.trial(inputs.config), reason


def _train(options: TrainOptions) -> None:
    from mmpo_train.terminal import console

    folder, reason = train(options)
    if reason:
        console.print(f"[red]diverged:[/] {reason}; try a lower --learning-rate")
        sys.exit(1)
    console.print(f"checkpoints: {folder / 'checkpoints'}")


if __name__ == "__main__":
    main()
