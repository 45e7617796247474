"""Tests of decoding, sampling and views."""
