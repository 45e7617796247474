"""Tests of student_train/evaluate."""
