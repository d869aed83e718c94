"""One recording from many workers, and many files on a cluster."""
