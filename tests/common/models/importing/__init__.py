"""Tests of common/models/importing."""
