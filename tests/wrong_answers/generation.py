"""For each exercise of `generation` an answer that looks right and is not."""

ANSWERS = {
    # All that stay are alike: the proportions are lost.
    "min_p_probabilities": """
def min_p_probabilities(logits, min_p):
    p = logits.double().softmax(-1)
    kept = (p >= min_p * p.amax(-1, keepdim=True)).double()
    return kept / kept.sum(-1, keepdim=True)
""",
    # Looks for newlines anywhere, not for the newest two.
    "blank_line": """
def blank_line(made):
    return (made == 10).sum(1) >= 2
""",
    # Starts in the middle of a segment: the borders move, and so does what is known.
    "continue_prompt": """
def continue_prompt(model, prompt, count):
    length, memory, found = model.config.segment_length, None, []
    for segment in prompt.split(length, dim=1):
        logits, memory, _ = model(segment, memory)
    for token in logits[:, -1].topk(2).indices.split(1, dim=1):
        made, state = [token], start(model, memory)
        while len(made) < count:
            logits, state = step(model, made[-1], state)
            made.append(logits.argmax(-1))
        found.append(torch.cat(made, dim=1))
    return torch.stack(found, dim=1)
""",
}
