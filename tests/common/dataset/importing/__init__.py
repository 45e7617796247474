"""Tests of the importers of annotation files."""
