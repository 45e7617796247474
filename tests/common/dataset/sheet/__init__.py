"""Tests of common/dataset/sheet."""
