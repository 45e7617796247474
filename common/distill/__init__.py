"""Targets, the teacher's forward pass, and the losses that compare with it."""
