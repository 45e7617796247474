"""Tests of common/storage."""
