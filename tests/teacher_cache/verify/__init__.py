"""Tests of teacher_cache/verify."""
