"""Text of others, read within bounds: no file takes more memory or time than its kind may."""
