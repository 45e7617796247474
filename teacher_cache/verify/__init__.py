"""Prove that a cache is whole and the right one; compute anew what is not."""
