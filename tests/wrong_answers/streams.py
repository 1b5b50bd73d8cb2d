"""For each exercise of `streams` an answer that looks right and is not."""

ANSWERS = {
    # Forgets that a loss is in nats.
    "bits_per_byte": """
def bits_per_byte(nats_per_word, words, size):
    return nats_per_word * words / size
""",
    # Forgets that a target which is not scored has no successor.
    "continues": """
def continues(before, after):
    last, first = before.targets[:, -1], after.tokens[:, 0]
    return bool((after.reset | (last == first)).all())
""",
    # Takes the memory for full from the first step on.
    "mean_context": """
def mean_context(segment_length, memory_length, steps):
    return (segment_length + 1) / 2 + memory_length
""",
    # Makes room for a segment before it looks how much room there is.
    "remember": """
def remember(memory, filled, batch):
    room, time = memory.shape[1], batch.tokens.shape[1]
    filled = (filled.masked_fill(batch.reset, 0) + time).clamp(max=room)
    return torch.cat([memory[:, time:], batch.tokens], dim=1), filled
""",
    # Overrides `at` alone: on some texts a step is left empty.
    "MovingBorders": """
class MovingBorders(TextStream):
    def at(self, index):
        epoch, step = divmod(index, self.steps)
        start = step * self.segment_length - epoch % self.segment_length
        end = min(start + self.segment_length, self.longest)
        columns = torch.arange(max(start, 0), max(start, end) + 1)
        where = (self.starts[:, None] + columns).clamp(max=len(self.tokens) - 1)
        text = self.tokens[where].long()
        targets = text[:, 1:].masked_fill(columns[:-1] >= self.lengths[:, None], -100)
        return Batch(text[:, :-1], targets, torch.full((self.batch,), step == 0))
""",
}
