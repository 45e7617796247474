"""Tests of teacher_cache/format."""
