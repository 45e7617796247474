"""Tests of common/dataset/frames."""
