"""The paper's tables and figures from the ledger alone, ours beside theirs; comparisons and model cards.

`read.py` reads the ledger, `numbers.py` to `figures.py` compute, `page.py` writes, by `page.html`. The door is
`report.write_report`.
"""
