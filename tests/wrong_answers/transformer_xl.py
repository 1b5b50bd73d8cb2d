"""For each exercise of `transformer_xl` an answer that looks right and is not."""

ANSWERS = {
    # Adds what stands out of whole segments, not what is missing to the next one.
    "reach": """
def reach(layers, segment_length, memory_length, index):
    more = memory_length % segment_length
    return layers * memory_length + index + (layers - 1) * more
""",
    # Counts one vector for a token, where a cache holds a key and a value.
    "costs": """
def costs(config, batch, element_size):
    vector = batch * config.layers * config.d_model * element_size
    return config.memory_length * vector, config.memory_length + 1
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
        self.before = nn.Identity()
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, x, y):
        return self.factor * (x + y)
""",
    # Starts in the middle of a segment: the borders move, and so does what is known.
    "continue_prompt": """
def continue_prompt(model, prompt, count):
    length, memory, found = model.config.segment_length, None, []
    for segment in prompt.split(length, dim=1):
        logits, memory, _ = model(segment, memory)
    for token in logits[:, -1].topk(2).indices.split(1, dim=1):
        made, state = [token], model.start(memory)
        while len(made) < count:
            logits, state = model.step(made[-1], state)
            made.append(logits.argmax(-1))
        found.append(torch.cat(made, dim=1))
    return torch.stack(found, dim=1)
""",
}
