"""For each exercise of `training` an answer that looks right and is not."""

ANSWERS = {
    # Counts the memory once; but every token sees it, and half of a segment.
    "equal_cost": """
def equal_cost(segment_length, memory_length):
    return segment_length + memory_length
""",
    # Obeys the reset of the second stream's first batch: a cold start after all.
    "evaluate_after": """
@torch.no_grad()
def evaluate_after(model, before, stream):
    memory, cost, scored = None, 0.0, 0
    model.eval()
    for one in (before, stream):
        for tokens, targets, reset in (one.at(i) for i in range(len(one))):
            memory = memory.reset(reset) if memory else None
            logits, memory, _ = model(tokens, memory)
            if one is stream:
                cost += nats(logits, targets).sum().item() / math.log(2)
                scored += (targets >= 0).sum().item()
    model.train()
    return cost / scored
""",
    # Takes the cost of the whole window each time, and so counts segments twice.
    "overlapping": """
def overlapping(model, batches, k):
    memories, total = [None], None
    for t in range(len(batches)):
        first = max(t - k + 1, 0)
        with torch.no_grad():
            memories.append(model(batches[t].tokens, memories[t]).memory)
        memory, cost = memories[first], 0.0
        for tokens, targets, _ in batches[first : t + 1]:
            logits, memory, _ = model(tokens, memory)
            cost = cost + nats(logits, targets).sum()
        found = torch.autograd.grad(cost, list(model.parameters()))
        total = found if total is None else [a + b for a, b in zip(total, found)]
    return total
""",
}
