"""The search for a schedule that keeps to a budget, with costs measured on this machine and fidelity on the user's data."""
