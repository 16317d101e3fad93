"""Trials of a program on this host, watched from outside. Touches: processes, inotify, the files that are named to it."""
