"""For each exercise of `relative_attention` an answer that looks right and is not."""

ANSWERS = {
    # Moves row i by time - i: one too far.
    "shift_by_index": """
def shift_by_index(by_distance):
    time, n = by_distance.shape[-2:]
    column = torch.arange(n) + (time - torch.arange(time))[:, None]
    index = column.clamp(max=n - 1).expand_as(by_distance)
    return by_distance.gather(-1, index).masked_fill(column >= n, 0)
""",
    # Forgets that the product is divided by the root of d_head.
    "SlopeAttention": """
class SlopeAttention(ContentAttention):
    def queries(self, query):
        return query, torch.ones_like(query)

    def positions(self, n, ahead=0):
        far = distances(n, None, self.out.weight, ahead)
        slope = 0.5 ** torch.arange(1, self.heads + 1).to(far)
        each = -slope[:, None] * far / self.d_head
        return each[..., None].expand(-1, -1, self.d_head)
""",
    # Rotates the other way: sin(b - a) for sin(a - b).
    "rotated_scores": """
def rotated_scores(position, weight, slots):
    heads, time = position.shape[1:3]
    places = distances(slots + time, None, weight).flip(0)
    waves = sinusoids(places, weight.shape[1])
    sine, cosine = waves[slots:].chunk(2, dim=-1)
    s, c = (position @ weight.view(heads, -1, weight.shape[1])).chunk(2, dim=-1)
    rotated = torch.cat([c * sine + s * cosine, c * cosine - s * sine], dim=-1)
    return rotated @ waves.T
""",
}
