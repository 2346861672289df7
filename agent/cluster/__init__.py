"""What makes several agents one cluster: how they talk, found, join, lead, lend and look after each other."""
