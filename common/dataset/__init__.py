"""Videos and their labels: the index, bad videos, and everything that makes or checks them."""
