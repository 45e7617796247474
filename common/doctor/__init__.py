"""Whether this machine can do the work: what `reskd doctor` looks at."""
