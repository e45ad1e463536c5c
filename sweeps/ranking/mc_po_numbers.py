"""What the MC-PO paper prints in its Tables 1 to 4 and in Section 5.4; its Figure 2 has no numbers.

Win rates in percent with the standard deviation over three seeds.
"""

from collections.abc import Mapping

PRINTED = (
    "The paper's numbers are win rates against GPT-4's answers, judged by Mistral-Large-Instruct-2407; ours are "
    "against the starting model. Compare the order of the rows, not the height of a number."
)
Printed = tuple[float, float | None]
"""Mean and deviation; None where the paper gives none."""

ALPACA, ARENA = "AlpacaEval 2", "Arena-Hard"
LLAMA = "Llama-3.1-8B-SFT"
INSTRUCT = "Llama-3.1-8B-Instruct"

Numbers = Mapping[str, Mapping[tuple[str, str], Printed]]
"""Model and benchmark -> (row, column) of the study -> number."""


def _columns(names: tuple[str, ...], rows: Mapping[str, tuple[Printed, ...]], column: str = "final") -> Numbers:
    """From a table whose columns are models and benchmarks."""
    return {name: {(row, column): values[place] for row, values in rows.items()} for place, name in enumerate(names)}


METHODS = _columns(
    tuple(f"{model}, {benchmark}" for model in ("Mistral-7B-SFT", LLAMA, INSTRUCT) for benchmark in (ALPACA, ARENA)),
    {
        "dpo": ((25.07, 6.81), (42.01, 11.88), (33.74, 2.51), (60.25, 2.12), (64.22, 1.01), (75.88, 0.79)),
        "rpo": ((15.31, 0.62), (39.18, 0.49), (32.50, 0.75), (59.20, 0.82), (51.27, 0.50), (64.74, 0.12)),
        "exo": ((21.77, 4.09), (30.63, 3.55), (26.48, 3.31), (52.89, 5.03), (64.75, 1.72), (74.93, 0.81)),
        "simpo": ((18.62, 2.64), (48.26, 3.90), (33.71, 1.41), (60.69, 1.01), (54.28, 1.48), (73.36, 1.38)),
        "cpo": ((24.27, 0.39), (49.66, 0.34), (29.10, 1.01), (55.25, 0.60), (65.28, 0.54), (77.92, 1.78)),
        "bco": ((23.04, 0.19), (46.68, 1.62), (24.96, 1.28), (58.16, 1.76), (61.17, 1.27), (73.45, 0.54)),
        "kto": ((22.98, 0.23), (45.77, 1.85), (24.50, 1.35), (53.40, 0.75), (60.35, 0.67), (71.19, 0.49)),
        "apo": ((15.79, 0.78), (35.94, 0.26), (21.13, 0.40), (53.25, 0.82), (57.54, 0.97), (70.70, 0.25)),
        "sppo": ((12.68, 0.27), (30.87, 0.67), (20.26, 0.34), (53.52, 0.56), (56.39, 0.58), (71.73, 0.62)),
        "nca": ((17.30, 0.37), (39.88, 0.80), (20.46, 0.36), (53.36, 1.25), (58.04, 0.42), (72.40, 0.23)),
        "mc_po": ((30.86, 0.91), (52.75, 2.00), (35.84, 0.31), (63.77, 0.81), (66.90, 0.74), (76.71, 0.24)),
        "on_mc_po": ((30.52, 0.24), (52.90, 0.53), (39.70, 0.29), (64.21, 0.59), (72.63, 0.21), (77.71, 0.85)),
    },
)
"""Table 1."""

NOISE = _columns(
    (f"{LLAMA}, {ALPACA}", f"{LLAMA}, {ARENA}"),
    {
        "DPO(-)": ((1.08, 0.6), (3.17, 0.9)),
        "DPO": ((23.62, 2.81), (50.51, 5.59)),
        "MC-PO": ((28.98, 1.34), (58.09, 2.63)),
    },
)
"""Table 2, whose model is called Llama-3.1-8B."""


def _rows(columns: tuple[str, ...], tables: Mapping[str, Mapping[str, tuple[Printed, ...]]]) -> Numbers:
    """From a table for each benchmark, with the study's own columns."""
    return {
        f"{LLAMA}, {benchmark}": {
            (row, column): value for row, values in rows.items() for column, value in zip(columns, values, strict=True)
        }
        for benchmark, rows in tables.items()
    }


COUNTS = _rows(
    ("M = 1", "M = 2", "M = 3"),
    {
        ALPACA: {
            "RNCE": ((33.74, 2.51), (33.73, 0.49), (34.36, 0.56)),
            "MC-PO": ((35.84, 0.31), (36.73, 0.59), (37.40, 0.13)),
        },
        ARENA: {
            "RNCE": ((60.25, 2.12), (61.53, 0.29), (61.16, 0.69)),
            "MC-PO": ((63.77, 0.81), (64.53, 0.60), (66.16, 0.13)),
        },
    },
)
"""Table 3."""

EPOCHS = _rows(
    ("Epoch 1", "Epoch 2", "Epoch 3"),
    {
        ALPACA: {"MC-PO": ((32.93, 0.39), (35.84, 0.31), (35.01, 0.71))},
        ARENA: {"MC-PO": ((61.70, 0.29), (63.77, 0.81), (63.83, 0.75))},
    },
)
"""Table 4."""

AUGMENTED = _columns(
    (f"{LLAMA}, {ALPACA}", f"{LLAMA}, {ARENA}"),
    {
        "DPO": ((33.74, 2.51), (60.25, 2.12)),
        "DPO, augmented": ((34.18, 1.26), (59.62, 1.04)),
        "MC-PO": ((35.84, 0.31), (63.77, 0.81)),
    },
)
"""Section 5.4."""

ONLINE = _columns(
    (f"{INSTRUCT}, {ALPACA}", f"{INSTRUCT}, {ARENA}"),
    {"online DPO": ((72.63, None), (73.28, None)), "OnMC-PO": ((72.63, 0.21), (77.71, 0.85))},
)
"""Section 5.4."""

OF_STUDY: Mapping[str, Numbers] = {
    "mc_po_table1": METHODS,
    "mc_po_table2": NOISE,
    "mc_po_table3": COUNTS,
    "mc_po_table4": EPOCHS,
    "mc_po_augmented": AUGMENTED,
    "mc_po_online": ONLINE,
}
"""Name of a study -> what the paper prints in its place."""
