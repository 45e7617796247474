"""Recognizers: clips in, feature maps and class scores out."""
