"""Annotation formats of the field: pure parsers from text to rows, one file each."""
