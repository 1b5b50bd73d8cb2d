"""For each exercise of `fewer_slots` answers that look right and are not."""

ANSWERS = {
    # Equation (3): right where the memory is a multiple of the segment.
    "reach": """
def reach(chosen, segment_length, memory_length):
    return len(chosen) * memory_length
""",
    # Rolls the whole memory: slots that were there move to the layer below.
    "remember": """
def remember(memory, states, length):
    after = []
    for old, new in zip([*memory[1:], memory[0]], states[1:], strict=True):
        row = torch.cat([old, new.detach()], dim=1)
        after.append(row[:, max(row.shape[1] - length, 0) :])
    return after
""",
    # Takes the fewest layers in place of the most.
    "spend": """
def spend(budget, layers, d_model, segment_length, span):
    for count in range(1, layers + 1):
        slots = budget // (4 * d_model * count)
        slots -= slots % segment_length
        if slots >= span:
            return top(layers, count), slots
    return None
""",
}

MORE = {
    # Takes each layer with memory for one that has a layer without memory below.
    "reach": [
        """
def reach(chosen, segment_length, memory_length):
    hop = -(-memory_length // segment_length) * segment_length
    return len(chosen) * hop
""",
        # Transformer-XL's own, whatever the lowest layer with memory.
        """
def reach(chosen, segment_length, memory_length):
    hop = -(-memory_length // segment_length) * segment_length
    return (len(chosen) - 1) * hop + memory_length
""",
    ],
    "remember": [
        # Stores inputs.
        """
def remember(memory, states, length):
    after = []
    for old, new in zip(memory, states[:-1], strict=True):
        row = torch.cat([old, new.detach()], dim=1)
        after.append(row[:, max(row.shape[1] - length, 0) :])
    return after
""",
        # With a length of 0 keeps everything.
        """
def remember(memory, states, length):
    pairs = zip(memory, states[1:], strict=True)
    return [torch.cat([a, b.detach()], dim=1)[:, -length:] for a, b in pairs]
""",
    ],
    "spend": [
        # Counts numbers, not bytes.
        """
def spend(budget, layers, d_model, segment_length, span):
    for count in range(layers, 0, -1):
        slots = budget // (d_model * count)
        slots -= slots % segment_length
        if slots >= span:
            return top(layers, count), slots
    return None
""",
        # Does not round to segments.
        """
def spend(budget, layers, d_model, segment_length, span):
    for count in range(layers, 0, -1):
        slots = budget // (4 * d_model * count)
        if slots >= span:
            return top(layers, count), slots
    return None
""",
    ],
}
"""Further answers, which `tests/test_fewer_slots.py` runs."""
