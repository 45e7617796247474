"""Tests of teacher_cache/fill."""
