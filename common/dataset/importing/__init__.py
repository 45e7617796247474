"""From the annotation formats of the field to a video index."""
