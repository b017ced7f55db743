"""Several tokens a pass: drafts, and what a model accepts of them."""
