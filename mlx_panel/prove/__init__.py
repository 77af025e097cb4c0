"""The privacy proof: random words go through every route of a running server, then everything it writes is searched."""
