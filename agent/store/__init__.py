"""What this agent keeps on its own disk, and the database it mirrors to."""
