"""Sources of images: CIFAR's files, image folders and archives, list files, scikit-learn's digits."""
