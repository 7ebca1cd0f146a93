"""The logit cache: one HDF5 file, written block by block, sealed, read back and checked."""
