"""A contact sheet of an index: what teacher and student see of some videos of each class."""
