"""Tests of common/experiment."""
