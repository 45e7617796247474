"""What a network gets right: predictions of a split, metrics, intervals, comparisons."""
