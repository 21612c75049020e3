"""The steps: each performs one action outside and returns what became of it as facts."""
