"""Tests of filling with a process per device."""
