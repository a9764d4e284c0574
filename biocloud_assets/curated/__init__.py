"""The curated layer: what is published for others, made from the raw layer. It has a package for each reader."""
