"""The usual names of heads, with layer and head from 0: L1H3."""


def head_name(layer: int, head: int) -> str:
    """Return the name of a head: L1H3."""
    return f"L{layer}H{head}"


def head_place(name: str) -> tuple[int, int]:
    """Return layer and head of a head's name, the reverse of `head_name`."""
    layer, head = name.removeprefix("L").split("H")
    return int(layer), int(head)
