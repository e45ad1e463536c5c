"""The studies of the MC-PO paper (Chen et al. 2025): Tables 1 to 4, Figure 2, and those of Section 5.4.

mmpo mc-po-studies --study noise
"""

from dataclasses import dataclass
from typing import Literal

from mmpo_train.terminal import run_program
from sweeps import grids
from sweeps.cluster.nodes import counted
from sweeps.search.study import StudyOptions, run_study
from sweeps.search.study_tables import Study

_SETTINGS = {"dataset": "tiny_ranked", "epochs": 2, "beta": 0.01}


# Table 5's SimPO: mean log-probabilities, and gamma = 10 whatever beta is.
_SIMPO = {"simpo": {"length_normalised": True, "gamma_over_beta": 10 / 0.01}}

METHODS = Study(
    name="mc_po_table1",
    title="MC-PO paper, Table 1: preference optimisation methods, seven learning rates",
    cells={(name, "final"): {"objective": name} | _SIMPO.get(name, {}) for name in grids.MC_PO_METHODS},
    settings=_SETTINGS,
    learning_rates=grids.mc_po_learning_rates,
)

NOISE = Study(
    name="mc_po_table2",
    title="MC-PO paper, Table 2: a candidate with two swapped tokens",
    cells={
        ("DPO(-)", "final"): {"objective": "dpo", "noise_candidate": "only"},
        ("DPO", "final"): {"objective": "dpo", "noise_candidate": "added"},
        ("MC-PO", "final"): {"objective": "mc_po", "noise_candidate": "added"},
    },
    settings=_SETTINGS,
)

COUNTS = Study(
    name="mc_po_table3",
    title="MC-PO paper, Table 3: several dispreferred completions a step",
    cells={
        (name, f"M = {count}"): {"objective": objective, "negatives": count}
        for name, objective in (("RNCE", "rnce"), ("MC-PO", "mc_po"))
        for count in (1, 2, 3)
    },
    settings=_SETTINGS,
)

_LENGTHS = {f"Epoch {count}": count for count in (1, 2, 3)}
_ONE_RUN = "MC-PO, one run of three epochs"
EPOCHS = Study(
    name="mc_po_table4",
    title="MC-PO paper, Table 4: final checkpoints of runs of one, two and three epochs, and the epochs of one run",
    # The cosine of a run of three epochs is at two thirds of its way after the second: that is no final checkpoint.
    cells={("MC-PO", column): {"objective": "mc_po", "epochs": count} for column, count in _LENGTHS.items()}
    | {(_ONE_RUN, column): {"objective": "mc_po", "epochs": max(_LENGTHS.values())} for column in _LENGTHS},
    epochs={(_ONE_RUN, column): count for column, count in _LENGTHS.items()},
    settings=_SETTINGS,
)

AUGMENTED = Study(
    name="mc_po_augmented",
    title="MC-PO paper, Section 5.4: DPO on every pair of the data",
    cells={
        ("DPO", "final"): {"objective": "dpo"},
        ("DPO, augmented", "final"): {"objective": "dpo", "pair_every_negative": True},
        ("MC-PO", "final"): {"objective": "mc_po"},
    },
    settings=_SETTINGS,
)

ONLINE = Study(
    name="mc_po_online",
    title="MC-PO paper, Section 5.4: online DPO and OnMC-PO",
    cells={("online DPO", "final"): {"objective": "online_dpo"}, ("OnMC-PO", "final"): {"objective": "on_mc_po"}},
    settings=_SETTINGS,
)

NEGATIVES = Study(
    name="mc_po_figure2",
    title="MC-PO paper, Figure 2: sampling strategies on one to five candidates",
    cells={
        (name, counted(count, "neg")): {"objective": "mc_po", "negative_choice": choice, "worst_negatives": count}
        for name, choice in (("MC-PO", "kernel"), ("Max", "max"), ("Min", "min"))
        for count in (1, 2, 3, 4, 5)
    },
    settings=_SETTINGS,
)

STUDIES = {
    "methods": METHODS,
    "noise": NOISE,
    "counts": COUNTS,
    "epochs": EPOCHS,
    "negatives": NEGATIVES,
    "augmented": AUGMENTED,
    "online": ONLINE,
}


@dataclass(frozen=True, kw_only=True)
class MCPOOptions(StudyOptions):
    """Repeat a study of the MC-PO paper beside its numbers. Data: tiny_ranked."""

    study: Literal["methods", "noise", "counts", "epochs", "negatives", "augmented", "online"] = "noise"
    """methods is Table 1 with Appendix B.1's seven learning rates, noise is Table 2, counts is Table 3 (M = 1, 2, 3),
    epochs is Table 4, negatives is Figure 2. augmented (DPO on every pair) and online (online DPO and OnMC-PO) are
    those of Section 5.4."""


def main(arguments: list[str] | None = None) -> None:
    """Run a study from the command line."""

    def program(options: MCPOOptions) -> None:
        run_study(STUDIES[options.study], options, "mc_po_studies")

    run_program(MCPOOptions, program, "mmpo mc-po-studies", arguments)


if __name__ == "__main__":
    main()
