"""Whether what is planned can run here, and what to do where it cannot. The door is `python -m sweeps.doctor`."""
