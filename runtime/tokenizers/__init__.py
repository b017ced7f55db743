"""Tokenizers that run: the file that has their tables, and the engines that encode, decode and train."""
