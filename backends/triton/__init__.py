"""The Triton backend: a graph as PyTorch source whose composites are launches of our kernels, and whose products are the vendor's."""
