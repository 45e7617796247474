"""Stage two: train students from the store, and measure them."""
