"""Where the book is kept: the interface to it; what stands behind it has folders of its own."""
