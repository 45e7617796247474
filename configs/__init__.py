"""Experiment files, installed with the package; `reskd config show NAME` resolves one."""
