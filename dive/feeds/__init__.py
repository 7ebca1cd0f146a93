"""What brings a batch to the device: views of images, and the teacher's logits for them."""
