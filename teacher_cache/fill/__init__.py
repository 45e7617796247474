"""Run the teacher and write what it said, unit by unit."""
