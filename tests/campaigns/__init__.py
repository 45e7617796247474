"""Long trials, run by hand: `python -m tests.campaigns.NAME --json`."""
