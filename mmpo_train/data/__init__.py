"""From files and hub datasets to token tables.

Sources are opened (`sources.py`, `files.py`), rows understood (`rows.py`), examples gathered with an audit
(`preferences.py`), rendered by the chat template (`rendering.py`), split into prompt and completions (`templates.py`)
and kept as tokens (`tokens.py`). The doors are `preferences.load_preferences` and `tokens.tokenise`; whoever needs a
prompt goes to `rendering.prompt_ids`.
"""
