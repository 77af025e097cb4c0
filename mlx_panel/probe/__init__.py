"""Trying what a model can do: a job that loads it and asks it for real answers."""
