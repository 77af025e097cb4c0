"""The audit log for those outside of the server: over HTTP from one that runs, or from the file itself."""
