"""A trained network at work: predictions, features, export, benchmark."""
