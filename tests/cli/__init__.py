"""The terminal face: offline commands in project folders, online ones against a real agent."""
