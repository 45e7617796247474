"""What a cache will cost, measured on this machine before it is made."""
