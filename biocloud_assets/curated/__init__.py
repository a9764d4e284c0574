"""The curated layer: what is published for others to read, made from the raw layer.

What belongs here: a folder for each reader. What doesn't: what is delivered (`raw`).
"""
