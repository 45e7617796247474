"""Videos: decoding, sampling, views and preprocessing."""
