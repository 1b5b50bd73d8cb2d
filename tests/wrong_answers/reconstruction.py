"""For each exercise of `reconstruction` an answer that looks right and is not."""

ANSWERS = {
    # Ends the training of the weight, for good.
    "apply_constant": """
def apply_constant(linear, x):
    linear.weight.detach_()
    return linear(x)
""",
    # Lets the gradient into the queries.
    "WeightedAutoEncoding": """
class WeightedAutoEncoding(AutoEncoding):
    def forward(self, evicted, new):
        query, keys, _ = evicted.seen
        weights = (query @ keys.mT / query.shape[-1] ** 0.5).softmax(-1).mean((1, 2))
        restored = self.decoder(new).unflatten(-1, (self.rate, -1)).flatten(1, 2)
        error = (evicted.old.detach() - restored).square()
        return (error * weights[..., None] * keys.shape[2]).mean()
""",
    # Counts in a plain number, which no checkpoint holds.
    "Handover": """
class Handover(CompressionLoss):
    detaches = True
    steps = 4

    def __init__(self, config):
        super().__init__(config)
        self.encode, self.attend = AutoEncoding(config), AttentionReconstruction(config)
        self.calls = 0

    def forward(self, evicted, new):
        share = max(1 - self.calls / self.steps, 0.0)
        self.calls += int(self.training)
        attend = self.attend(evicted, new)
        return share * self.encode(evicted, new) + (1 - share) * attend
""",
}
