"""What is on disk is whole: atomic writes, checked records, locks, journals."""
