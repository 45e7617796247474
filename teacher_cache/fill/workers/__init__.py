"""One process per device over one queue of units, which the driver hands out."""
