"""Run the teacher and write its outputs, unit by unit."""
