"""Passes on mixtures of experts and on the feed-forward blocks in whose place they stand."""
