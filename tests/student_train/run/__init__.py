"""Tests of student_train/run."""
