"""Tests of student_train/demo."""
