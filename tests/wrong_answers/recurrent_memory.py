"""For each exercise of `recurrent_memory` an answer that looks right and is not."""

ANSWERS = {
    # Counts back from the segment, as if each had a window of its own.
    "teachers": """
def teachers(index, window):
    return list(range(max(index - window + 1, 0), index))
""",
    # Fades where nothing was written too; the start is kept, but not its size.
    "FadingTokens": """
class FadingTokens(RecurrentTokens):
    def __init__(self, config, keep):
        super().__init__(config)
        self.keep = keep

    def forward(self, memory, batch):
        return self.keep * super().forward(memory, batch)
""",
    # Detaches one segment too late.
    "unrolled_loss": """
def unrolled_loss(model, segments, index, depth):
    memory = None
    for i, segment in enumerate(segments[: index + 1]):
        logits, memory, _ = model(segment, memory)
        if i < index - depth - 1:
            memory = memory.detach()
    return logits.logsumexp(-1).mean()
""",
}
