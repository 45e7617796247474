"""Tests of what reads text of others."""
