"""For each exercise of `algorithmic_tasks` an answer that looks right and is not."""

ANSWERS = {
    # Forgets that the digits of kept pairs are ruled out.
    "best_share": """
def best_share(pairs, digits, known):
    return known / pairs + (pairs - known) / pairs / digits
""",
    # Moves to the right.
    "Shift": """
class Shift(Copy):
    name = "shift"

    def __init__(self, length, by):
        super().__init__(length, copies=1)
        self.by = by

    def follows(self, text):
        return text.roll(self.by, dims=1)
""",
    # Forgets that what a slot holds was computed in a segment that began earlier.
    "least_slots": """
def least_slots(layers, length, n):
    return -(-(2 * length - n) // layers)
""",
}
