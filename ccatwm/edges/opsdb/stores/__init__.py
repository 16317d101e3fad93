"""Stores: read rows as plain values, record what core decided."""
