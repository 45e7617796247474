"""Tests of teacher_cache/estimate."""
