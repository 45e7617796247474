"""Tests of teacher_cache/read."""
