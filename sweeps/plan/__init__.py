"""What is to be trained, as values: options, stages with their points, the order of the search, commands as typed.

Importable without Ray, MLflow and torch. The door is `stages.Stage`.
"""
