"""Units as they are computed: decode ahead, batches, the device, rows behind it, the writer."""
