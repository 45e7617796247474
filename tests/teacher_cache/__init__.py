"""Tests of stage one and the store."""
