"""Tests of student_train/report."""
