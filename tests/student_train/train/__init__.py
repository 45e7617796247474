"""Tests of student_train/train."""
