"""Hand-written backward passes of cells. They are optional: JAX differentiates a cell without one."""
