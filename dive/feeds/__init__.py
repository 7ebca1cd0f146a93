"""Feeds bring batches to the device: views of images, and the teacher's logits for them."""
