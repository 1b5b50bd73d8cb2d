"""For each exercise of `compression` an answer that looks right and is not."""

ANSWERS = {
    # Counts a compressed slot as one token.
    "span": """
def span(exact, compressed, rate):
    tokens = exact + compressed
    return tokens, tokens / (exact + compressed / rate)
""",
    # Keeps the first slot of each group: time runs from the oldest.
    "keep_last": """
def keep_last(width, rate):
    weight = torch.zeros(width, width, rate)
    weight[:, :, 0] = torch.eye(width)
    return weight
""",
    # Takes one index for all groups of a lane.
    "BestOfGroup": """
class BestOfGroup(Compression):
    ranks = True

    def squeeze(self, memory, usage):
        best = usage.unflatten(1, (-1, self.rate)).sum(1).argmax(1)
        return self.groups(memory)[torch.arange(len(memory)), :, best]
""",
    # Divides by zero where nobody looked.
    "WeightedMean": """
class WeightedMean(Compression):
    ranks = True

    def squeeze(self, memory, usage):
        each = usage.unflatten(1, (-1, self.rate))
        share = each / each.sum(2, keepdim=True)
        return (self.groups(memory) * share[..., None]).sum(2)
""",
    # Finds the directions of single slots, and uses them for each tap.
    "best_linear": """
def best_linear(slots, rate):
    directions = torch.linalg.svd(slots.flatten(0, 1), full_matrices=False).Vh
    return directions[:, :, None].expand(-1, -1, rate)
""",
}
