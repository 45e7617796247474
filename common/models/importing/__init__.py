"""Weights that others published, under their names: read safely, renamed, checked, written here."""
