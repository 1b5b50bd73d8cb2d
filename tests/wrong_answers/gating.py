"""For each exercise of `gating` an answer that looks right and is not."""

ANSWERS = {
    # Counts one gate for each layer; there are two.
    "left": """
def left(layers, bias):
    return torch.tensor(bias).double().sigmoid().item() ** layers
""",
    # The bias is a number, and no parameter: it never learns.
    "FixedGate": """
class FixedGate(IdentityReordering):
    def join(self, x, y):
        keep = torch.tensor(2.0).sigmoid()
        return keep * x + (1 - keep) * y
""",
    # Undoes the feedback, and forgets what the gate keeps of the value itself.
    "least_pulse": """
def least_pulse(factor):
    high = torch.ones((), dtype=torch.float64)
    for _ in range(10000):
        high = (factor * high).tanh()
    return factor * high.item() if factor > 1 else 0.0
""",
}
