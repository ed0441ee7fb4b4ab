"""Sequence tasks beyond next-token prediction: each file is one task, from its config to what training needs of it."""
