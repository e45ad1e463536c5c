"""The training core: preference optimisation of a causal language model on one machine or under DeepSpeed."""
