"""Benchmarks that anyone can run: `make bench`, `make bench-full`, `make bench-gpu`."""
