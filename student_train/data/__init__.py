"""Batches of a training run: which rows, in which order, read ahead."""
