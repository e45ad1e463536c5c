"""The work of the commands: check the input, train the trials that the ledger lacks, conclude.

`stage.py` runs one stage, `study.py` a table over seeds, `joint.py` a search over all axes at once; `choices.py` finds
the values that earlier stages chose, by rule or by a person. The door is `stage.run_stage`.
"""
