"""How agents talk to each other. Empty while an agent is a cluster of one."""
