"""Frames of videos kept as encoded images: made once, read at random without decoding video."""
