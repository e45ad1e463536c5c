"""The paper's tables and figures with our numbers beside theirs, from the ledger alone; comparisons and model cards.

`read.py` reads the ledger, `numbers.py` to `figures.py` compute, `page.py` writes, by `page.html`. The door is
`report.write_report`.
"""
