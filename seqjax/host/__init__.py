"""The operating system: files, signals, memory, the screen, the settings of JAX."""
