"""For each exercise of `cheaper_layers` answers that look right and are not."""

ANSWERS = {
    # The memory shrinks with `kv_heads`, as if it held keys.
    "decoding_bytes": """
def decoding_bytes(config, time):
    kv_heads = config.kv_heads or config.heads
    width = kv_heads * config.d_model // config.heads
    slots = 2 * (config.memory_length + time) + config.memory_length
    return 4 * config.layers * slots * width
""",
    # Takes every `kv_heads`-th head, where neighbours make a group.
    "pooled": """
def pooled(weight, heads, kv_heads):
    d_model = weight.shape[1]
    rows = weight.view(2, heads // kv_heads, kv_heads, -1, d_model)
    return rows.mean(1).reshape(-1, d_model)
""",
    # Right numbers, and all keys are made.
    "scores_without_keys": """
def scores_without_keys(query, weight, states):
    batch, heads, time, d_head = query.shape
    keys = (states @ weight.T).unflatten(-1, (-1, d_head)).transpose(1, 2)
    return query @ keys.repeat_interleave(heads // keys.shape[1], dim=1).mT
""",
}
