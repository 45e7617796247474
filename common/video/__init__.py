"""Videos: index, decoding, sampling and views."""
