"""The prefix cache: what a model computed for the beginning of a prompt, kept in memory and on disk."""
