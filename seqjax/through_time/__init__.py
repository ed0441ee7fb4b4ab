"""The ways through time: how a recurrence is run over T steps, forwards and backwards."""
