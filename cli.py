#!/usr/bin/env python3
"""Launcher: `python cli.py teacher` from the source tree is the installed `dive teacher`."""

from dive.cli import main

if __name__ == "__main__":
    main()
