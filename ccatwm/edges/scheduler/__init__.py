"""Batch systems behind the Scheduler port."""
