"""The raw layer: what was delivered, as it was delivered, in typed Delta tables.

It knows nothing of the curated layer.
"""
