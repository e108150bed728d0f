"""The hidden engine: networks, likelihoods, training and posterior queries, on tensors only."""
