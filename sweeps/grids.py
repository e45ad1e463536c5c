"""The grids of Appendix B.1."""

LEARNING_RATES = (5e-4, 1e-4, 5e-5, 1e-5, 5e-6, 1e-6)
"""Stage 1, with epochs = 2 and the objectives' defaults below."""

STAGE1_SETTINGS = {"epochs": 2, "beta": 0.1, "r_eps": 0.6, "gamma_over_beta": 1.2}
"""beta for all objectives, r_eps for MMPO, gamma/beta for SimPO."""
