"""Pure: the run table, (state, command) -> state."""
