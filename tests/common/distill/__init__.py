"""Tests of targets and losses."""
