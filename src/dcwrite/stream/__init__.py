"""Events in motion: order restored, batches formed, handed to the store."""
