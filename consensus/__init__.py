"""The durable log, and later the Raft core. Knows no agent, no job, no socket: entries are opaque bytes."""
