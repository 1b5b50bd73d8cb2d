"""For each exercise of the chapter an answer that looks right and is not."""

ANSWERS = {
    # Counts a compressed slot as one token.
    "place": """
def place(config, step, token):
    back = step * config.segment_length - token
    if back <= 0:
        return "segment" if back > -config.segment_length else "future"
    if back <= config.memory_length:
        return "memory"
    slots = config.memory_length + config.compressed_length
    return "compressed" if back <= slots else "gone"
""",
    # Says that all slots are empty, so that nothing is attended to.
    "zero_filled": """
def zero_filled(model, batch):
    config, weight = model.config, model.head.weight
    parts = []
    for slots in (config.memory_length, config.compressed_length):
        one = weight.new_zeros(batch, slots, config.d_model)
        parts.append((one.detach(),) * config.layers)
    slots = config.memory_length + config.compressed_length
    return CompressiveMemory(*parts, torch.zeros(batch, slots, dtype=torch.bool))
""",
    # Rounds down: what does not fill a group stays, and a level grows too long.
    "step_of": """
def step_of(levels, segment, lengths, rate):
    arriving, after = segment, []
    for level, length in zip(levels, lengths):
        row = level + arriving
        surplus = max(len(row) - length, 0) // rate * rate
        old, row = row[:surplus], row[surplus:]
        arriving = [sum(old[i : i + rate], []) for i in range(0, surplus, rate)]
        after.append(row)
    return after
""",
}
