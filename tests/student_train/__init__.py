"""Tests of stage two."""
