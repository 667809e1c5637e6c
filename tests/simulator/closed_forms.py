"""Closed forms that several tests measure sessions against."""


def constant_length(max_len: int, clicks: int, slate_size: int, ad_penalty: int = 0) -> int:
    """Return the exact session length, in steps, when every slate gets the same number of clicks.

    Len = floor((T0 - 1) / (2 - r + penalty)) + 1 with r = clicks / K, in integers.
    """
    return slate_size * (max_len - 1) // (2 * slate_size - clicks + slate_size * ad_penalty) + 1
