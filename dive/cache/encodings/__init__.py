"""What the row of a view holds in a logit cache, and how it is turned into logits."""
