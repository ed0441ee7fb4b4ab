"""One module a way to start the runs of a sweep."""
