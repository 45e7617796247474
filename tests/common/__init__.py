"""Tests of the shared room."""
