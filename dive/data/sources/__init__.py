"""Sources of images: CIFAR's files, image folders and archives, scikit-learn's digits."""
