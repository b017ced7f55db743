"""Programs that generate text: tokens drawn one by one, or several at a time with a draft, from a program with a cache."""
