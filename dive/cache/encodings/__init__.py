"""The encodings of a logit cache: what the row of a view stores, and how it is decoded to logits."""
