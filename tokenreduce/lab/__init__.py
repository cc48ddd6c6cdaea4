"""Ablations: reducers side by side on one model, one data set, one clock."""
