"""Passes that change which weights a model has, and what they are made of."""
