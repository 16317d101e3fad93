"""The six passes, one module each; none imports another."""
