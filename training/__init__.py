"""What makes one run practical: options, device, files, checkpoints, the loop around the graph."""
