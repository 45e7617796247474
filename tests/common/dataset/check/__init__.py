"""Tests of common/dataset/check."""
