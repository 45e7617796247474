"""Rows of a finished cache, by view and video."""
