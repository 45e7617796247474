"""Tests of common/dataset."""
