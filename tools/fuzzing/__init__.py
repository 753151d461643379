"""Fuzzers of what outsiders can reach: one input is a string of bytes, one target a function of it."""
