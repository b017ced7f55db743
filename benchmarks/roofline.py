"""What the costs of ops promise for the target `triton` on an H200: the larger of arithmetic and traffic, and launches.

Each is a bound: a kernel that reaches it is as fast as the machine allows.
"""

from __future__ import annotations

# An H200 SXM, dense, and what a launch behind another takes.
HALF, SINGLE, BYTES, LAUNCH = 989e12, 67e12, 4.8e12, 4e-6


def mass_over_attention(features: int, keys: int, held: int) -> float:
    """The time of attention with its column mass over that without: the scores of keys beyond those whose exponentials stay in
    registers are computed once more, and nothing else."""
    forward, scores = 4 * features, 2 * features
    return (forward + scores * (1 - min(held, keys) / keys)) / forward


def merging_over_block(batch: int = 64, tokens: int = 577, width: int = 1024, metric: int = 64) -> float:
    """The time of matching and merging over that of a block of a ViT, whose products are at the ceiling."""
    block = batch * tokens * (24 * width * width + 4 * tokens * width) / HALF
    # Cosines are exact, and so no tensor core's.
    matching = batch * (tokens / 2) ** 2 * 2 * metric / SINGLE
    traffic = batch * tokens * (2 * width * 2 + metric * (2 + 3 * 4)) / BYTES
    return (matching + traffic) / block


def reading_over_dense(read: int = 2048, slots: int = 131072, selecting: float = 1.0) -> float:
    """The time of attention to all slots over that to those that were selected; selecting reads a share of the keys."""
    return 2 * slots / (selecting * slots + 2 * read)


def mixture_over_vendor(tokens: int, experts: int = 8, width: int = 2048, hidden: int = 2048, k: int = 2) -> float:
    """The time of PyTorch's ops around `_grouped_mm` over that of our launches, both with products at the ceiling."""
    used = min(experts, tokens * k)
    products = max(6 * tokens * k * width * hidden / HALF, 3 * used * width * hidden * 2 / BYTES)
    # Rows gathered, the gate and the sum over experts: what is stored and read again between their launches.
    theirs = tokens * k * (2 * width + 3 * hidden + 3 * width) * 2 / BYTES
    ours = tokens * k * 2 * width * 2 / BYTES
    return (products + theirs + 20 * LAUNCH) / (products + ours + 10 * LAUNCH)


def predicted() -> list[list[str]]:
    """Rows: what, the bar, and what is promised."""
    return [
        ["attention with column mass, over without, 577 keys", "≤ 1.25", f"{mass_over_attention(64, 577, 128):.2f}"],
        ["the same, 256 of them held, where that is measured to be faster", "≤ 1.25", f"{mass_over_attention(64, 577, 256):.2f}"],
        ["the same, 197 keys", "≤ 1.25", f"{mass_over_attention(64, 197, 128):.2f}"],
        ["the same, more than 1,024 keys, which are a second launch", "≤ 1.25", f"{mass_over_attention(64, 2048, 0):.2f}"],
        ["matching and merging, of a ViT-L block (64 × 577)", "≤ 5 %", f"{merging_over_block():.1%}".replace("%", " %")],
        ["2,048 of 131,072 slots over dense, by `token_vote`", "≥ 10", f"{reading_over_dense():.1f}"],
        ["the same, by `page_bounds` of pages of 16", "≥ 10", f"{reading_over_dense(selecting=2 / 16):.1f}"],
        ["the same, selection left out", "", f"{reading_over_dense(selecting=0.0):.0f}"],
        ["experts over torch `_grouped_mm`, 16,384 tokens", "≥ 0.9", f"{mixture_over_vendor(16384):.2f}"],
        ["the same, 64 tokens", "≥ 1.5", f"{mixture_over_vendor(64):.2f}"],
    ]
