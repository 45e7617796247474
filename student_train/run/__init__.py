"""What a run leaves behind: its folder, log, provenance and model card."""
