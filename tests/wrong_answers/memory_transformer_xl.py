"""For each exercise of `memory_transformer_xl` a plausible answer that is wrong."""

ANSWERS = {
    # Counts a short memory in every layer, chosen or not.
    "long_slots": """
def long_slots(layers, slots, short, chosen=None):
    return layers * (slots - short)
""",
    # One number for each feature, as in the parent.
    "SlotGate": """
class SlotGate(BiasedGate):
    def __init__(self, config):
        super().__init__(config, 0.0)
        self.bias = nn.Parameter(torch.linspace(0, 4, config.d_model))

    def join(self, x, y):
        keep = self.bias.sigmoid()
        return keep * x + (1 - keep) * y
""",
    # A mean of means: a short piece weighs as much as a long one.
    "in_pieces": """
def in_pieces(query, pieces):
    found = [linear_attention(query, keys, values) for keys, values in pieces]
    return sum(found) / len(found)
""",
}
