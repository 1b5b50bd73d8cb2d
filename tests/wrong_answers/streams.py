"""For each exercise of `streams` an answer that looks right and is not."""

ANSWERS = {
    # Forgets that a loss is in nats.
    "bits_per_byte": """
def bits_per_byte(nats_per_word, words, size):
    return nats_per_word * words / size
""",
    # Accepts a batch as soon as any lane is reset.
    "continues": """
def continues(before, after):
    last, first = before.targets[:, -1], after.tokens[:, 0]
    return bool(after.reset.any() or ((last == -100) | (last == first)).all())
""",
    # Takes the memory for full from the first step on.
    "mean_context": """
def mean_context(segment_length, memory_length, steps):
    return (segment_length + 1) / 2 + memory_length
""",
    # Empties the lane after the segment instead of before it.
    "remember": """
def remember(memory, filled, batch):
    room = memory.shape[1]
    filled = (filled + batch.tokens.shape[1]).clamp(max=room)
    filled = filled.masked_fill(batch.reset, 0)
    return torch.cat([memory, batch.tokens], dim=1)[:, -room:], filled
""",
    # Moves the borders by leaving out the first bytes of every lane.
    "MovingBorders": """
class MovingBorders(TextStream):
    def at(self, index):
        epoch, step = divmod(index, self.steps)
        shift = epoch % self.segment_length
        batch = super().at(step)
        if step == 0:
            return Batch(batch.tokens[:, shift:], batch.targets[:, shift:], batch.reset)
        return batch
""",
}
