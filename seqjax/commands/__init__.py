"""One file a command: its options, its help, and the call that does the work."""
