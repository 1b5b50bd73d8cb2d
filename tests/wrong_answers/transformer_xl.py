"""For each exercise of `transformer_xl` an answer that looks right and is not."""

ANSWERS = {
    # Adds what stands out of whole segments, not what is missing to the next one.
    "reach": """
def reach(layers, segment_length, memory_length, index):
    more = memory_length % segment_length
    return layers * memory_length + index + (layers - 1) * more
""",
    # With a length of 0 the slice keeps everything.
    "remember": """
def remember(memory, states, length):
    return torch.cat([memory, states.detach()], dim=1)[:, -length:]
""",
    # The factor scales the whole sum: at the start nothing passes at all.
    "ReZero": """
class ReZero(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_norm = nn.Identity()
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, x, y):
        return self.factor * (x + y)
""",
}
