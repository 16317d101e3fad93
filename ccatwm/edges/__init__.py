"""The doors to the world: one folder per part of it; none knows another."""
