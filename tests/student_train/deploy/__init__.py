"""Tests of student_train/deploy."""
