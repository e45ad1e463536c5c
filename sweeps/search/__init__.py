"""What the commands do: check the input, train what the ledger lacks, conclude.

`stage.py` is one stage, `study.py` a table over seeds, `joint.py` all axes at once; `choices.py` is what earlier
stages chose, by rule or by a person. The door is `stage.run_stage`.
"""
