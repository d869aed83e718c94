"""What an .rtdc file is: names, dtypes, chunks, filters, basins. Pure, no file access."""
