"""Batched layers: what `torch.fx` traces of a module, laid out for many networks at once."""
