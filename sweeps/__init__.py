"""The commands of a sweep, and the rooms behind them.

The files here are programs and nothing else; a script reads like its sentence in Appendix B.1. The rooms, each of which
imports only those before it: grids, plan and ledger; cluster and ranking; cost, figures and trials; search, reporting
and doctor.
"""
